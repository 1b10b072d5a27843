package vmmtest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/transport"
)

// Sizes of the two buffers of a connection.
const (
	guestBuffer = 256 << 10 // the guest's kernel: SO_VM_SOCKETS_BUFFER_SIZE's default
	vmmBuffer   = 64 << 10  // the VMM: Firecracker's CONN_TX_BUF_SIZE
)

var errReset = syscall.ECONNRESET

// Conn is the guest's end of a connection. It has the methods of
// [transport.Conn], except SyscallConn, with the same meaning, and what it
// reports is what a guest sees on a native vsock: the peer is CID 2. Errors
// are *net.OpError; the connection's reset is ECONNRESET.
//
// All methods may be called concurrently. The owner must Close it.
type Conn struct {
	in, out       *buffer
	local, remote transport.Addr
	writing       sync.Mutex // keeps one call's bytes together
	closed        chan struct{}
	closeOnce     sync.Once
}

var _ net.Conn = (*Conn)(nil)

// pipe returns the two ends of a connection that has the given addresses for
// the guest.
func pipe(local, remote transport.Addr) (*Conn, *guestStream) {
	c := &Conn{
		in:     newBuffer(guestBuffer),
		out:    newBuffer(vmmBuffer),
		local:  local,
		remote: remote,
		closed: make(chan struct{}),
	}
	return c, &guestStream{conn: c, gone: make(chan struct{})}
}

// Read reads up to len(b) bytes. It returns io.EOF at the end of the data and
// after CloseRead.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.opError("read", err)
}

// Write writes all of b, or returns an error and how much was taken. Concurrent
// writes are not interleaved.
func (c *Conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.out.write(b)
	return n, c.opError("write", err)
}

// WriteBuffers writes all bytes of bufs, which it consumes as far as it has
// written. The bytes of one call are not interleaved with those of another
// write.
func (c *Conn) WriteBuffers(bufs *net.Buffers) (int64, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	var total int64
	for len(*bufs) > 0 {
		n, err := c.out.write((*bufs)[0])
		total += int64(n)
		if err != nil {
			(*bufs)[0] = (*bufs)[0][n:]
			return total, c.opError("write", err)
		}
		*bufs = (*bufs)[1:]
	}
	return total, nil
}

// Close closes the connection, both ways: what was written still reaches the
// host, what was not read is lost. It ends blocked calls with net.ErrClosed.
// Only the first call has an effect; the others return nil.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		c.out.closeWrite(net.ErrClosed)
		c.in.closeRead(net.ErrClosed, syscall.EPIPE)
		close(c.closed)
	})
	return nil
}

// CloseWrite shuts down the sending side: the host reads what was sent and then
// io.EOF, and can still send.
func (c *Conn) CloseWrite() error {
	if c.isClosed() {
		return c.opError("close", net.ErrClosed)
	}
	c.out.closeWrite(syscall.EPIPE)
	return nil
}

// CloseRead shuts down the receiving side: reads return io.EOF, and the host's
// writes fail.
func (c *Conn) CloseRead() error {
	if c.isClosed() {
		return c.opError("close", net.ErrClosed)
	}
	c.in.closeRead(io.EOF, syscall.EPIPE)
	return nil
}

func (c *Conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// LocalAddr returns the guest's [transport.Addr]: its CID and its port.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the host's [transport.Addr]: CID 2 and its port, which is
// the number of the VMM's "OK" if the host connected.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Peer returns the same as RemoteAddr, as transport reports it.
func (c *Conn) Peer() transport.Peer {
	return transport.Peer{Network: transport.NetworkVsock, CID: c.remote.CID, Port: c.remote.Port}
}

// AuthInfo returns the same in a [transport.AuthInfo]. It claims no security.
func (c *Conn) AuthInfo() credentials.AuthInfo {
	return transport.AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity},
		Peer:           c.Peer(),
	}
}

// SetDeadline sets the read and the write deadline. The zero time means none.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the deadline of reads, also of those that are blocked.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.isClosed() {
		return c.opError("set", net.ErrClosed)
	}
	c.in.setReadDeadline(t)
	return nil
}

// SetWriteDeadline sets the deadline of writes, also of those that are blocked.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.isClosed() {
		return c.opError("set", net.ErrClosed)
	}
	c.out.setWriteDeadline(t)
	return nil
}

func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if no, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, no)
	}
	return &net.OpError{Op: op, Net: transport.NetworkVsock, Source: c.local, Addr: c.remote, Err: err}
}

// A guestStream is the VMM's end of a Conn.
type guestStream struct {
	conn     *Conn
	gone     chan struct{} // closed by Close and Reset
	goneOnce sync.Once
}

var _ stream = (*guestStream)(nil)

func (g *guestStream) Read(p []byte) (int, error)        { return g.conn.out.read(p) }
func (g *guestStream) Write(p []byte) (int, error)       { return g.conn.in.write(p) }
func (g *guestStream) SetReadDeadline(t time.Time) error { g.conn.out.setReadDeadline(t); return nil }
func (g *guestStream) CloseWrite() error                 { g.conn.in.closeWrite(syscall.EPIPE); return nil }
func (g *guestStream) CloseRead() error                  { g.conn.out.closeRead(io.EOF, syscall.EPIPE); return nil }

func (g *guestStream) Close() error {
	g.goneOnce.Do(func() {
		// In this order, so that a guest that reads the end can no longer write.
		g.conn.out.closeRead(net.ErrClosed, syscall.EPIPE)
		g.conn.in.closeWrite(net.ErrClosed)
		close(g.gone)
	})
	return nil
}

func (g *guestStream) Reset() {
	g.goneOnce.Do(func() {
		g.conn.out.closeRead(errReset, errReset)
		g.conn.in.reset(errReset)
		close(g.gone)
	})
}

func (g *guestStream) waitHangup() bool {
	select {
	case <-g.conn.closed:
		return true
	case <-g.gone:
		return false
	}
}
