package vmmtest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A hostStream is a Unix socket that can be reset: it leaves the last byte that
// was read in the socket's queue; see the package's documentation.
type hostStream struct {
	*net.UnixConn
	raw       syscall.RawConn
	held      atomic.Bool // the queue's first byte was read already
	closeOnce sync.Once
}

var _ stream = (*hostStream)(nil)

// discards holds buffers for bytes that were read by peeking and are now taken
// out of the queue.
var discards = sync.Pool{New: func() any { return new([chunkSize]byte) }}

func newHostStream(u *net.UnixConn) (*hostStream, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0)
	})
	if err = errors.Join(err, optErr); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	return &hostStream{UnixConn: u, raw: raw}, nil
}

// Read reads what is in the queue behind the byte that is held there.
func (s *hostStream) Read(p []byte) (int, error) {
	p = p[:min(len(p), chunkSize)]
	var n int
	var readErr error
	err := s.raw.Read(func(fd uintptr) bool {
		for {
			n, _, readErr = unix.Recvfrom(int(fd), p, unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if readErr != unix.EINTR {
				break
			}
		}
		if n > 0 && readErr == nil {
			s.consume(int(fd), n)
		}
		return readErr != unix.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case readErr != nil:
		return 0, os.NewSyscallError("recvfrom", readErr)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// consume takes n peeked bytes out of the queue, but for the last one: that
// which is held from the last time goes instead.
func (s *hostStream) consume(fd, n int) {
	if !s.held.Swap(true) {
		n--
	}
	buf := discards.Get().(*[chunkSize]byte)
	defer discards.Put(buf)
	for n > 0 {
		k, err := unix.Read(fd, buf[:n])
		if err == unix.EINTR {
			continue
		}
		if k <= 0 || err != nil {
			return
		}
		n -= k
	}
}

// Close closes the socket in an orderly way: nothing is left unread, unless
// more keeps coming.
func (s *hostStream) Close() error {
	s.closeOnce.Do(func() {
		s.raw.Control(func(fd uintptr) {
			buf := discards.Get().(*[chunkSize]byte)
			defer discards.Put(buf)
			for range 64 {
				if n, err := unix.Read(int(fd), buf[:]); n <= 0 && err != unix.EINTR {
					return
				}
			}
		})
		s.UnixConn.Close()
	})
	return nil
}

// Reset closes the socket with a byte left unread, if there has been one.
func (s *hostStream) Reset() {
	s.closeOnce.Do(func() { s.UnixConn.Close() })
}

// waitHangup waits for POLLHUP, which a Unix socket reports when both
// directions are shut, as they are once the other side has closed.
func (s *hostStream) waitHangup() bool {
	err := s.raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0 && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return err == nil
}
