package vsockdev

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/transport"
)

// A Conn is a connection of the guest, as this process has it. It is a net.Conn
// by the rules of package transport: methods may be called concurrently, and
// the owner closes it. A connection that the guest or its end broke off fails
// with [ErrReset] or [ErrNoGuest] instead of io.EOF, once what came before was
// read; so do writes.
type Conn struct {
	socket        *net.UnixConn // one end of a pair; the device has the other
	local, remote transport.Addr
	reason        atomic.Pointer[error]
}

var (
	_ net.Conn     = (*Conn)(nil)
	_ syscall.Conn = (*Conn)(nil)
)

// newConn returns a connection and the device's end of it, which is
// non-blocking.
func newConn() (*Conn, int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("socketpair: %w", err)
	}
	f := os.NewFile(uintptr(pair[0]), "vsock")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		unix.Close(pair[1])
		return nil, -1, err
	}
	return &Conn{socket: c.(*net.UnixConn)}, pair[1], nil
}

// fail says why the connection ends. The first reason stays.
func (c *Conn) fail(reason error) { c.reason.CompareAndSwap(nil, &reason) }

// explain replaces what the socket says about its end by the reason for it.
func (c *Conn) explain(op string, err error) error {
	gone := errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
	if reason := c.reason.Load(); gone && reason != nil {
		return &net.OpError{Op: op, Net: transport.NetworkVsock, Source: c.local, Addr: c.remote, Err: *reason}
	}
	return err
}

// Read reads up to len(b) bytes. It returns io.EOF after the guest has shut
// down its sending side or closed the connection in order.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.socket.Read(b)
	if err != nil {
		err = c.explain("read", err)
	}
	return n, err
}

// Write writes all of b, or returns an error and how much the device took.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.socket.Write(b)
	if err != nil {
		err = c.explain("write", err)
	}
	return n, err
}

// WriteBuffers writes bufs with as few system calls as possible, and consumes
// what it wrote.
func (c *Conn) WriteBuffers(bufs *net.Buffers) (int64, error) {
	n, err := bufs.WriteTo(c.socket)
	if err != nil {
		err = c.explain("write", err)
	}
	return n, err
}

// Close closes the connection, both ways. What was written still reaches the
// guest.
func (c *Conn) Close() error {
	if err := c.socket.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// CloseRead shuts down the receiving side: the guest's writes fail.
func (c *Conn) CloseRead() error { return c.socket.CloseRead() }

// CloseWrite shuts down the sending side: the guest reads io.EOF once it has
// read everything.
func (c *Conn) CloseWrite() error { return c.socket.CloseWrite() }

// LocalAddr returns the host's address, a [transport.Addr].
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the guest's address, a [transport.Addr].
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// AuthInfo returns a [transport.AuthInfo] with the guest's CID and port.
func (c *Conn) AuthInfo() credentials.AuthInfo {
	return transport.AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity},
		Peer:           transport.Peer{Network: transport.NetworkVsock, CID: c.remote.CID, Port: c.remote.Port},
	}
}

// SetDeadline sets the read and the write deadline. The zero time means none.
func (c *Conn) SetDeadline(t time.Time) error { return c.socket.SetDeadline(t) }

// SetReadDeadline sets the deadline of reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.socket.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.socket.SetWriteDeadline(t) }

// SyscallConn gives access to the socket that leads to the device.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.socket.SyscallConn() }

// duplicate returns a descriptor of its own for a stream socket.
func duplicate(c syscall.Conn) (int, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var fdErr error
	err = rc.Control(func(old uintptr) {
		if typ, e := unix.GetsockoptInt(int(old), unix.SOL_SOCKET, unix.SO_TYPE); e != nil || typ != unix.SOCK_STREAM {
			fdErr = errors.New("vsockdev: not a stream socket")
			return
		}
		fd, fdErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = fdErr
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil && fd >= 0 {
		unix.Close(fd)
		fd = -1
	}
	return fd, err
}

// join copies between two connections until both directions have ended, and
// closes both.
func join(a *Conn, b net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { copyHalf(a, b) })
	copyHalf(b, a)
	both.Wait()
	a.Close()
	b.Close()
}

// copyHalf copies one direction, and passes its end on. A connection that has no
// half-close is closed.
func copyHalf(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	half, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		dst.Close()
		src.Close()
	}
}
