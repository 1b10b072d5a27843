package vsockdev

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A key names a connection of the guest.
type key struct{ guest, host uint32 } // ports

// A link is one connection: the protocol's state towards the guest, and a
// non-blocking stream socket on the host's side. Its session's loop owns it.
type link struct {
	flow
	key    key
	fd     int // -1 until the host's side has one
	buffer int // what it has of the budget
	slot   int // in the session's table

	out     []byte // from the guest, not yet taken by the socket
	written int    // of out

	readable, writable bool // as far as is known, until the socket says EAGAIN
	readEnd            bool // the host sends no more: what is unread comes first
	gone               bool // the host's side is closed, both ways
	queued             bool // in the session's queue for the guest
	settled            bool // the guest knows nothing of it any more; only out is left
	ended              bool // forgotten
	lingers            bool // in the session's list of those that can be ended

	said uint32 // of peerShut, what the socket was told

	opened func(error) // called once, when the guest has answered
	cancel func()      // ends a call of Config.Dial
	conn   *Conn       // told why the connection ends, if the host's side is one
}

// maxIovecs is the most that one system call takes (UIO_MAXIOV).
const maxIovecs = 1024

// write writes the slices to the socket as far as it takes them without
// blocking, and returns how much that was and what is left. It changes bufs.
func (l *link) write(v *vectors, bufs [][]byte) (n int, rest [][]byte) {
	for len(bufs) > 0 && l.writable {
		part := bufs[:min(len(bufs), maxIovecs)]
		want := total(part)
		got, err := v.call(unix.SYS_WRITEV, l.fd, part)
		n += got
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			l.writable = false
		case err != nil:
			l.refuse()
			return n, nil
		case got < want:
			// The socket is full, or the call was interrupted: the next tells.
			bufs = skip(bufs, got)
		default:
			bufs = bufs[len(part):]
		}
	}
	return n, bufs
}

// refuse notes that the host's side takes no more bytes. Those that came for it
// are dropped.
func (l *link) refuse() {
	l.writable = false
	l.close(shutRecv)
	l.drop()
}

// drop empties the buffer.
func (l *link) drop() {
	l.pass(int(l.buffered()))
	l.out, l.written = nil, 0
}

// keep puts bytes into the buffer.
func (l *link) keep(bufs [][]byte) {
	if l.written > 0 && len(l.out)+total(bufs) > cap(l.out) {
		l.out = l.out[:copy(l.out, l.out[l.written:])]
		l.written = 0
	}
	for _, b := range bufs {
		l.out = append(l.out, b...)
	}
}

// flush writes what is in the buffer.
func (l *link) flush(v *vectors) {
	if len(l.out) == 0 || !l.writable {
		return
	}
	n, _ := l.write(v, [][]byte{l.out[l.written:]})
	if len(l.out) == 0 {
		return // refused
	}
	l.pass(n)
	if l.written += n; l.written == len(l.out) {
		l.out, l.written = nil, 0
	}
}

// finish tells the host's side that the guest sends no more, or takes no more,
// once it has everything.
func (l *link) finish() {
	if l.fd < 0 || l.said == l.peerShut {
		return
	}
	if l.peerShut&^l.said&shutSend != 0 && len(l.out) == 0 {
		l.said |= shutSend
		_ = unix.Shutdown(l.fd, unix.SHUT_WR)
	}
	if l.peerShut&^l.said&shutRecv != 0 {
		l.said |= shutRecv
		_ = unix.Shutdown(l.fd, unix.SHUT_RD)
		l.readable = false
	}
}

// wantsGuest reports whether there is something to send to the guest.
func (l *link) wantsGuest() bool {
	return l.pending() || l.readable && l.phase == phaseOpen && l.shut&shutSend == 0 && l.credit() > 0
}

// String describes the link for a log.
func (l *link) String() string {
	return fmt.Sprintf("guest port %d, host port %d", l.key.guest, l.key.host)
}

// vectors are used again for readv and writev.
type vectors struct{ iov []unix.Iovec }

// call makes a system call that takes iovecs.
func (v *vectors) call(nr uintptr, fd int, bufs [][]byte) (int, error) {
	v.iov = v.iov[:0]
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		e := unix.Iovec{Base: &b[0]}
		e.SetLen(len(b))
		v.iov = append(v.iov, e)
	}
	if len(v.iov) == 0 {
		return 0, nil
	}
	n, _, errno := unix.Syscall(nr, uintptr(fd), uintptr(unsafe.Pointer(&v.iov[0])), uintptr(len(v.iov)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// total returns the bytes of bufs.
func total(bufs [][]byte) (n int) {
	for _, b := range bufs {
		n += len(b)
	}
	return n
}

// skip returns bufs without their first n bytes. It changes the slices' slice.
func skip(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if len(bufs) > 0 && n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}
