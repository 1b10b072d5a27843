//go:build linux

package process

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxFeed is how much of stdin one write carries: small enough that what the
// process has taken is known while it reads slowly.
const maxFeed = 16 << 10

// memoryRetry is after how long a stream tries again that found all memory in
// use. An acknowledgement of its own frees memory for it at once; this is for
// what others free, when nobody is attached to it.
const memoryRetry = 100 * time.Millisecond

// widePipe is the capacity of a pipe from which a read has once got all that a
// pipe usually holds. With room for several such reads the process goes on
// writing while the agent sends, and they change places less often.
const widePipe = 256 << 10

// pump moves one output stream from its pipe to the ring, until the pipe ends,
// or run ends it by a read deadline. It is the only reader of the pipe.
func (s *session) pump(i int) {
	conn, err := s.io.out[i].SyscallConn()
	for err == nil {
		if err = s.awaitRoom(i); err != nil {
			break
		}
		readErr := conn.Read(func(fd uintptr) bool {
			_, err = s.readOnce(i, int(fd), false)
			return err != syscall.EAGAIN
		})
		if readErr != nil {
			err = readErr
		}
	}
	s.mu.Lock()
	closed := s.closed[i]
	s.mu.Unlock()
	if closed {
		s.io.out[i].Close()
	}
	held := !closed && errors.Is(err, os.ErrDeadlineExceeded) && !s.sweep(i)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.end(i)
	if closed {
		s.st.abandon(i)
	}
	s.held = s.held || held
	s.wakeReaders()
}

// readOnce moves what one read gives; nothing if the ring has no room. It ends
// with io.EOF or, on a terminal, EIO.
func (s *session) readOnce(i, fd int, force bool) (int, error) {
	s.mu.Lock()
	buf := s.st.reserve(i, force)
	s.mu.Unlock()
	if buf == nil {
		return 0, nil
	}
	n, err := read(fd, buf)
	if n == largeChunk && !s.widened[i] {
		s.widened[i] = true
		// A user who has too many pages in pipes gets no more: no harm.
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, widePipe)
	}
	s.mu.Lock()
	s.st.out[i].commit(n)
	if n > 0 {
		s.wakeReaders()
	}
	s.mu.Unlock()
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// awaitRoom waits until the stream's ring has room. Once the process has
// exited, it takes what the process has written whether there is room or not.
func (s *session) awaitRoom(i int) error {
	for {
		s.mu.Lock()
		ok, stop, sweep := s.st.hasRoom(i), s.stopPumps || s.closed[i], s.exited && !s.swept[i]
		var retry <-chan time.Time
		if s.waits[i] = !ok; !ok {
			s.swept[i] = s.exited
			s.wakeReaders() // the owner is asked to acknowledge
			if s.st.out[i].room() > 0 {
				retry = time.After(memoryRetry)
			}
		}
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case stop:
			return os.ErrDeadlineExceeded
		case sweep && s.sweep(i):
			return io.EOF
		}
		select {
		case <-s.room[i]:
		case <-retry:
		}
	}
}

// sweep takes what is in the pipe now, which after the exit includes all that
// the process wrote, into the ring even beyond its limit; widePipe bounds that.
// It reports whether the stream has ended.
func (s *session) sweep(i int) (ended bool) {
	err := onFD(s.io.out[i], func(fd int) error {
		left := waiting(fd)
		s.mu.Lock()
		s.st.out[i].max += uint64(left)
		s.mu.Unlock()
		for left > 0 {
			n, err := s.readOnce(i, fd, true)
			if n == 0 || err != nil {
				return err
			}
			left -= n
		}
		ended = hungUp(fd)
		return nil
	})
	return ended || err != nil && err != syscall.EAGAIN
}

// feed moves stdin from the clients to the process. A process that has closed
// its stdin, or ended, is fed into the void.
func (s *session) feed() {
	file := s.io.stdin
	midLine := false
	for {
		s.mu.Lock()
		data, finished := s.st.in.pending(), s.st.in.finished()
		s.mu.Unlock()
		if len(data) == 0 && finished {
			break
		}
		if len(data) == 0 {
			<-s.fed
			continue
		}
		data = data[:min(len(data), maxFeed)]
		n, err := file.Write(data)
		midLine = len(data) > 0 && data[len(data)-1] != '\n'
		s.mu.Lock()
		s.st.in.advance(n)
		if err != nil {
			s.st.in.discard()
		}
		s.wakeReaders()
		s.mu.Unlock()
	}
	s.mu.Lock()
	gone := s.st.in.closed
	s.mu.Unlock()
	switch {
	case s.io.terminal == nil:
		file.Close() // the end that the process sees
	case !gone:
		s.io.typeEOF(midLine)
		s.keepEOF()
	}
}

// keepEOF types the end of file again for each read of the terminal after the first
// that got it: a file too has its end for whoever reads.
func (s *session) keepEOF() {
	const look = 50 * time.Millisecond
	for {
		select {
		case <-s.done:
			return
		case <-time.After(look):
		}
		if idle, err := s.io.idle(); err != nil {
			return
		} else if idle {
			s.io.typeEOF(false)
		}
	}
}

// pastDeadline is a deadline that has passed.
var pastDeadline = time.Unix(1, 0)
