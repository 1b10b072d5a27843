package transport

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
)

// A stream is an open stream socket: *net.UnixConn, or on Linux *vsockConn.
type stream interface {
	io.ReadWriteCloser
	CloseRead() error
	CloseWrite() error
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	SyscallConn() (syscall.RawConn, error)
}

// Conn is a connection between a host and a guest. It is a net.Conn on the
// runtime's network poller, with the same rules: all methods may be called
// concurrently, deadlines end blocked calls with an error whose Timeout method
// reports true, and Close ends them with net.ErrClosed.
//
// The owner of a Conn must Close it.
type Conn struct {
	stream stream
	local  Addr
	remote Addr
	peer   Peer
}

var (
	_ net.Conn     = (*Conn)(nil)
	_ syscall.Conn = (*Conn)(nil)
)

// Read reads up to len(b) bytes. It returns io.EOF at the end of the data:
// after the peer closed its sending side, after CloseRead, and, on AF_VSOCK,
// often also after the peer was reset. Any other state, such as ENOTCONN, is
// an error and never an end of file.
func (c *Conn) Read(b []byte) (int, error) { return c.stream.Read(b) }

// Write writes all of b, or returns an error and how much was taken by the
// kernel until then. Concurrent writes are not interleaved.
func (c *Conn) Write(b []byte) (int, error) { return c.stream.Write(b) }

// WriteBuffers writes all bytes of bufs with as few system calls as possible
// (writev), as net.Buffers.WriteTo does for a TCP connection, which cannot
// know this type. It consumes bufs as far as it has written. The bytes of one
// call are not interleaved with those of another write.
func (c *Conn) WriteBuffers(bufs *net.Buffers) (int64, error) {
	dropEmpty(bufs)
	if s, ok := c.stream.(interface {
		writeBuffers(*net.Buffers) (int64, error)
	}); ok {
		return s.writeBuffers(bufs)
	}
	return bufs.WriteTo(c.stream)
}

// dropEmpty takes empty buffers off the front of bufs.
func dropEmpty(bufs *net.Buffers) {
	for len(*bufs) > 0 && len((*bufs)[0]) == 0 {
		*bufs = (*bufs)[1:]
	}
}

// Close closes the connection, both ways. It ends calls that are blocked on
// it. Only the first call has an effect; the others return nil.
func (c *Conn) Close() error {
	if err := c.stream.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// CloseRead shuts down the receiving side: reads return io.EOF.
func (c *Conn) CloseRead() error { return c.stream.CloseRead() }

// CloseWrite shuts down the sending side: the peer reads what was sent and
// then io.EOF, and can still send. The half-close reaches the other end on all
// networks; through vsock-mux that is up to the VMM (Firecracker does it).
func (c *Conn) CloseWrite() error { return c.stream.CloseWrite() }

// LocalAddr returns the [Addr] of this end. For vsock it has the real CID,
// which the kernel itself does not tell for a dialed connection; it is CIDAny
// where it cannot be found out. For a dialed vsock-mux connection its port is
// the one the VMM allotted on the host's side, which the guest sees as that of
// its peer.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the [Addr] of the other end: what was dialed, or what was
// accepted. An accepted Unix socket has usually no name there.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Peer returns what is known about the other end. It does not change while the
// connection lives.
func (c *Conn) Peer() Peer { return c.peer }

// AuthInfo returns the same in an [AuthInfo]. It claims no security.
func (c *Conn) AuthInfo() credentials.AuthInfo { return newAuthInfo(c.peer) }

// SetDeadline sets the read and the write deadline. The zero time means none.
func (c *Conn) SetDeadline(t time.Time) error { return c.stream.SetDeadline(t) }

// SetReadDeadline sets the deadline of reads, also of those that are blocked.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.stream.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of writes, also of those that are
// blocked. A write that times out may have sent a part of its bytes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// SyscallConn gives access to the socket itself, for instance for select, poll
// or options that this package does not know. The descriptor is non-blocking
// and valid only inside the callbacks of the RawConn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.stream.SyscallConn() }

// RawConn returns c itself and its socket, for those who read and write the
// socket instead of c, such as package rpc: c adds nothing to it. A type that embeds a Conn and has a Read or a Write of its
// own is told apart by self.
func (c *Conn) RawConn() (self net.Conn, socket syscall.RawConn) {
	rc, err := c.SyscallConn()
	if err != nil {
		return c, nil
	}
	return c, rc
}

// unixConn wraps a connected Unix socket.
func unixConn(u *net.UnixConn, local, remote Addr, network string, port uint32, path string) *Conn {
	p := Peer{Network: network, Path: path, Port: port}
	if cred, ok := peerCred(u); ok {
		p.UID, p.GID, p.PID, p.HasCreds = cred.uid, cred.gid, cred.pid, true
	}
	return &Conn{stream: u, local: local, remote: remote, peer: p}
}

// A cred says which process is at the other end of a Unix socket.
type cred struct {
	uid, gid uint32
	pid      int32
}

// addrOfUnix converts the address of a Unix socket; unnamed ones become the
// zero Addr.
func addrOfUnix(a net.Addr) Addr {
	if u, ok := a.(*net.UnixAddr); ok && u != nil && u.Name != "" && u.Name != "@" {
		return UnixAddr(u.Name)
	}
	return Addr{}
}
