package rpc

import (
	"io"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawConn reads and writes a connection through its file descriptor: with
// readv and writev, for which net.Buffers knows only the net package's own types,
// and so that one may look whether something is there before sleeping. Reading
// and writing may go on at the same time, but each only once at a time.
type rawConn struct {
	rc syscall.RawConn

	read    readState
	write   writeState
	spinner spinner
}

// readState is the read under way.
type readState struct {
	fn     func(fd uintptr) bool
	first  []byte // filled before rd's buffer
	rd     *reader
	n      int
	err    error
	spin   time.Duration
	parked bool // has slept, or is about to
	iov    [2]unix.Iovec
}

// writeState is the write under way.
type writeState struct {
	fn      func(fd uintptr) bool
	all     []unix.Iovec
	iov     []unix.Iovec // the part of all that is not written yet
	n       int
	park    bool
	again   bool
	parking func()
	err     error
}

// newRawConn returns nil if conn does not give access to its descriptor.
func newRawConn(conn net.Conn) *rawConn {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	socket := false
	if err := rc.Control(func(fd uintptr) {
		// Pipes and files have descriptors as well, but other rules.
		_, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
		socket = err == nil
	}); err != nil || !socket {
		return nil
	}
	r := &rawConn{rc: rc}
	r.read.fn = r.onRead
	r.write.fn = r.onWrite
	return r
}

// fill reads into first, if it is not empty, and what is left into rd's buffer.
// While nothing is there rd holds no buffer. With spin, it looks for so long
// before it sleeps.
func (r *rawConn) fill(rd *reader, first []byte, spin time.Duration) (int, error) {
	r.read.rd, r.read.first, r.read.n, r.read.err, r.read.parked = rd, first, 0, nil, false
	r.read.spin = spin
	err := r.rc.Read(r.read.fn)
	r.read.rd, r.read.first = nil, nil
	if err == nil {
		err = r.read.err
	}
	return r.read.n, err
}

func (r *rawConn) onRead(fd uintptr) bool {
	st := &r.read
	st.rd.acquire()
	var start time.Time
	for {
		n, errno := r.readNow(fd)
		switch {
		case errno == 0 && n == 0:
			st.err = io.EOF
			return true
		case errno == 0:
			st.n = n
			if !start.IsZero() {
				// What came later came because the peer got this CPU meanwhile.
				r.spinner.done(time.Since(start) <= st.spin)
			}
			return true
		case errno == unix.EINTR:
			continue
		case errno != unix.EAGAIN:
			st.err = errno
			return true
		}
		if st.spin <= 0 || st.parked {
			break
		}
		if start.IsZero() {
			if !r.spinner.try() {
				break
			}
			start = time.Now()
		} else if time.Since(start) > st.spin {
			r.spinner.done(false)
			break
		}
	}
	st.parked = true
	st.rd.release()
	return false
}

// readNow is one non-blocking read. It does not tell the scheduler about the
// system call, which takes no longer than copying 64 KiB does.
func (r *rawConn) readNow(fd uintptr) (int, unix.Errno) {
	st := &r.read
	buf := st.rd.space()
	var n uintptr
	var errno unix.Errno
	if len(st.first) == 0 {
		n, _, errno = unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	} else {
		// Most of what follows a large frame is another: read only a little more,
		// for what is read of it here has to be copied.
		buf = buf[:min(len(buf), readAhead)]
		iov := &st.iov
		iov[0].Base = &st.first[0]
		iov[0].SetLen(len(st.first))
		iov[1].Base = &buf[0]
		iov[1].SetLen(len(buf))
		n, _, errno = unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&iov[0])), 2)
		*iov = [2]unix.Iovec{}
	}
	runtime.KeepAlive(st)
	raceRead()
	return int(n), errno
}

// writev writes the buffers. If the socket is full it either sleeps, after
// calling parking, or, without park, returns again with what it has written.
func (r *rawConn) writev(bufs [][]byte, park bool, parking func()) (n int, again bool, err error) {
	w := &r.write
	w.all = w.all[:0]
	for _, b := range bufs {
		if len(b) > 0 {
			v := unix.Iovec{Base: &b[0]}
			v.SetLen(len(b))
			w.all = append(w.all, v)
		}
	}
	w.iov = w.all
	w.n, w.park, w.again, w.err, w.parking = 0, park, false, nil, parking
	if len(w.iov) > 0 {
		err = r.rc.Write(w.fn)
	}
	clear(w.all)
	w.iov = nil
	w.parking = nil
	if err == nil {
		err = w.err
	}
	return w.n, w.again, err
}

const maxIovecs = 1024

func (r *rawConn) onWrite(fd uintptr) bool {
	w := &r.write
	for len(w.iov) > 0 {
		k := min(len(w.iov), maxIovecs)
		n, errno := w.writeNow(fd, k)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			if !w.park {
				w.again = true
				return true
			}
			if w.parking != nil {
				w.parking()
			}
			return false
		case errno != 0:
			w.err = errno
			return true
		}
		w.n += int(n)
		w.advance(int(n))
	}
	return true
}

// rawMost is how many bytes a write may be of that the scheduler is not told about: it
// takes no longer than to copy them. If it is told, and the write takes longer than
// 20 µs, the scheduler wakes another thread to do what else there is.
const rawMost = 2 * maxPending

// writeNow is one non-blocking write of the first k pieces.
func (w *writeState) writeNow(fd uintptr, k int) (n uintptr, errno unix.Errno) {
	raceWrite()
	size := uint64(0)
	for i := range w.iov[:k] {
		size += uint64(w.iov[i].Len)
	}
	v := &w.iov[0]
	switch {
	case size > rawMost:
		n, _, errno = unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(v)), uintptr(k))
	case k > 1:
		n, _, errno = unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(v)), uintptr(k))
	default:
		n, _, errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(v.Base)), uintptr(v.Len))
	}
	runtime.KeepAlive(w)
	return n, errno
}

func (w *writeState) advance(n int) {
	for n > 0 {
		v := &w.iov[0]
		if n < int(v.Len) {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.SetLen(int(v.Len) - n)
			return
		}
		n -= int(v.Len)
		w.iov = w.iov[1:]
	}
}
