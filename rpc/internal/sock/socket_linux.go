package sock

import (
	"io"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// A Socket reads and writes a connection through its file descriptor: with
// readv and writev, for which net.Buffers knows only the net package's own types,
// and so that one may look whether something is there before sleeping. Reading
// and writing may go on at the same time, but each only once at a time.
type Socket struct {
	rc syscall.RawConn

	read    readState
	write   writeState
	spinner spinner
}

// readState is the read under way.
type readState struct {
	fn     func(fd uintptr) bool
	first  []byte // filled before rd's buffer
	rd     *Reader
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

// Of returns the Socket that conn is, nil if conn must be used by Read and Write.
func Of(conn net.Conn) *Socket {
	rc := socketOf(conn)
	if rc == nil {
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
	r := &Socket{rc: rc}
	r.read.fn = r.onRead
	r.write.fn = r.onWrite
	return r
}

// fill reads into first, if it is not empty, and what is left into rd's buffer.
// While nothing is there rd holds no buffer. With spin, it looks for so long
// before it sleeps.
func (r *Socket) fill(rd *Reader, first []byte, spin time.Duration) (int, error) {
	r.read.rd, r.read.first, r.read.n, r.read.err, r.read.parked = rd, first, 0, nil, false
	r.read.spin = spin
	err := r.rc.Read(r.read.fn)
	r.read.rd, r.read.first = nil, nil
	if err == nil {
		err = r.read.err
	}
	return r.read.n, err
}

// yieldLooks is after how many looks for data, some microseconds, other goroutines run.
const yieldLooks = 8

func (r *Socket) onRead(fd uintptr) bool {
	st := &r.read
	st.rd.acquire()
	var start time.Time
	for looks := 1; ; looks++ {
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
		if looks%yieldLooks == 0 {
			runtime.Gosched() // whatever else there is to do comes first
		}
	}
	st.parked = true
	st.rd.release()
	return false
}

// readNow is one non-blocking read. It does not tell the scheduler about the
// system call, which takes no longer than copying 64 KiB does.
func (r *Socket) readNow(fd uintptr) (int, unix.Errno) {
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
func (r *Socket) writev(bufs [][]byte, park bool, parking func()) (n int, again bool, err error) {
	w := &r.write
	w.all = w.all[:0]
	for _, b := range bufs {
		w.add(b)
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

// add adds b to what is to be written.
func (w *writeState) add(b []byte) {
	if len(b) > 0 {
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		w.all = append(w.all, v)
	}
}

func (r *Socket) onWrite(fd uintptr) bool {
	w := &r.write
	for len(w.iov) > 0 {
		n, errno := w.writeNow(fd)
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

const (
	// maxIovecs is how many pieces one system call takes.
	maxIovecs = 1024
	// rawMost bounds the bytes of one system call that the scheduler is not told
	// about: while it lasts, the goroutine can be neither preempted nor moved. To copy
	// so much takes less than 20 µs, from when on the scheduler would take the
	// processor away from a call that it was told about.
	rawMost = 2 * (wire.MaxPayload + wire.HeaderLen)
)

// writeNow is one non-blocking write, of up to rawMost bytes.
func (w *writeState) writeNow(fd uintptr) (n uintptr, errno unix.Errno) {
	raceWrite()
	k, size := 0, uint64(0)
	for k < min(len(w.iov), maxIovecs) && size+uint64(w.iov[k].Len) <= rawMost {
		size += uint64(w.iov[k].Len)
		k++
	}
	v := &w.iov[0]
	if k > 1 {
		n, _, errno = unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(v)), uintptr(k))
	} else {
		n, _, errno = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(v.Base)), uintptr(min(v.Len, rawMost)))
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
