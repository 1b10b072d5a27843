package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/socket"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// vsockConn adds to a socket.Conn what makes it a net.Conn: the errors.
type vsockConn struct {
	*socket.Conn
	local, remote Addr
	closed        atomic.Bool
}

var _ stream = (*vsockConn)(nil)

func (c *vsockConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.opError("read", err)
}

func (c *vsockConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.opError("write", err)
}

func (c *vsockConn) Close() error {
	c.closed.Store(true)
	return c.opError("close", c.Conn.Close())
}

func (c *vsockConn) CloseRead() error  { return c.opError("close", c.Conn.CloseRead()) }
func (c *vsockConn) CloseWrite() error { return c.opError("close", c.Conn.CloseWrite()) }

func (c *vsockConn) SetDeadline(t time.Time) error {
	return c.opError("set", c.Conn.SetDeadline(t))
}

func (c *vsockConn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.Conn.SetReadDeadline(t))
}

func (c *vsockConn) SetWriteDeadline(t time.Time) error {
	return c.opError("set", c.Conn.SetWriteDeadline(t))
}

// maxIovec is the number of buffers that one writev takes (UIO_MAXIOV).
const maxIovec = 1024

// writeBuffers writes by writev, while it holds the descriptor's write lock,
// so that no other write comes between.
func (c *vsockConn) writeBuffers(bufs *net.Buffers) (int64, error) {
	rc, err := c.Conn.SyscallConn()
	if err != nil {
		return 0, c.opError("writev", err)
	}
	var total int64
	var werr error
	err = rc.Write(func(fd uintptr) bool {
		for {
			dropEmpty(bufs)
			if len(*bufs) == 0 {
				return true
			}
			n, err := unix.Writev(int(fd), (*bufs)[:min(len(*bufs), maxIovec)])
			if n > 0 {
				total += int64(n)
				consume(bufs, n)
			}
			switch {
			case err == unix.EAGAIN:
				return false
			case err != nil && err != unix.EINTR:
				werr = os.NewSyscallError("writev", err)
				return true
			case err == nil && n == 0:
				werr = io.ErrUnexpectedEOF
				return true
			}
		}
	})
	if err == nil {
		err = werr
	}
	return total, c.opError("writev", err)
}

// consume takes the first n bytes off bufs.
func consume(bufs *net.Buffers, n int) {
	for n > 0 {
		first := (*bufs)[0]
		if n < len(first) {
			(*bufs)[0] = first[n:]
			return
		}
		n -= len(first)
		(*bufs)[0] = nil
		*bufs = (*bufs)[1:]
	}
}

// opError turns an error of os.File or package socket into that of a net.Conn.
// io.EOF stays as it is, and nothing else becomes it: a connection that is not
// connected any more (ENOTCONN, ECONNRESET) has not ended well.
func (c *vsockConn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		err = pe.Err
		if errno, ok := err.(syscall.Errno); ok {
			err = os.NewSyscallError(pe.Op, errno)
		}
	}
	if c.closed.Load() || errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	return &net.OpError{Op: op, Net: NetworkVsock, Source: c.local, Addr: c.remote, Err: err}
}

// openVsock makes a stream socket in a network namespace (nil: this one).
func openVsock(netNS *os.File) (*socket.Conn, error) {
	var cfg socket.Config
	if netNS != nil {
		cfg.NetNS = int(netNS.Fd())
	}
	return socket.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0, NetworkVsock, &cfg)
}

func dialVsock(ctx context.Context, a Addr, cfg *DialConfig) (*Conn, error) {
	s, err := openVsock(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	c, err := connectVsock(ctx, s, a, cfg)
	if err != nil {
		s.Close()
		return nil, err
	}
	return c, nil
}

func connectVsock(ctx context.Context, s *socket.Conn, a Addr, cfg *DialConfig) (*Conn, error) {
	if err := setBufferSizes(s, cfg.BufferSizes); err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		if err := setConnectTimeout(s, time.Until(d)); err != nil {
			return nil, err
		}
	}
	if err := bindLocal(s, cfg); err != nil {
		return nil, err
	}
	if _, err := s.Connect(ctx, &unix.SockaddrVM{CID: a.CID, Port: a.Port}); err != nil {
		return nil, err
	}
	local, err := boundAddr(s)
	if err != nil {
		return nil, err
	}
	if local.CID == CIDAny {
		local.CID = sourceCID(a.CID)
	}
	return newVsockConn(s, local, a), nil
}

func newVsockConn(s *socket.Conn, local, remote Addr) *Conn {
	return &Conn{
		stream: &vsockConn{Conn: s, local: local, remote: remote},
		local:  local,
		remote: remote,
		peer:   Peer{Network: NetworkVsock, CID: remote.CID, Port: remote.Port},
	}
}

// bindLocal binds the local port that cfg asks for, if any.
func bindLocal(s *socket.Conn, cfg *DialConfig) error {
	switch {
	case cfg.LocalPort != 0:
		return s.Bind(&unix.SockaddrVM{CID: CIDAny, Port: cfg.LocalPort})
	case cfg.PrivilegedPort:
		return bindPrivileged(s)
	}
	return nil
}

// bindPrivileged binds a free port from 1 to 1023, except that of guest-agent,
// which a listener on this machine may want. The table of ports is one for all
// processes, so it starts anywhere and goes on to the next while they are
// taken.
func bindPrivileged(s *socket.Conn) error {
	const n = firstUnprivilegedPort - 1
	start := rand.Uint32N(n)
	for i := range n {
		port := 1 + (start+i)%n
		if port == AgentPort {
			continue
		}
		err := s.Bind(&unix.SockaddrVM{CID: CIDAny, Port: port})
		if !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	return fmt.Errorf("all local ports below %d are taken: %w", firstUnprivilegedPort, os.NewSyscallError("bind", unix.EADDRINUSE))
}

// sourceCID returns the CID from which the kernel connects to remote, which
// getsockname does not tell (it says any), or CIDAny if it cannot be known:
// on a machine that is both a guest and a host, the way to other CIDs depends
// on modules that this process cannot see.
func sourceCID(remote uint32) uint32 {
	if remote == CIDLocal {
		return CIDLocal
	}
	own, err := localCID()
	switch {
	case err != nil:
		return CIDAny
	case remote == CIDHost || own == CIDHost:
		return own
	case remote == own:
		return CIDLocal
	}
	return CIDAny
}

func boundAddr(s *socket.Conn) (Addr, error) {
	sa, err := s.Getsockname()
	if err != nil {
		return Addr{}, err
	}
	return addrOfVM(sa)
}

func addrOfVM(sa unix.Sockaddr) (Addr, error) {
	vm, ok := sa.(*unix.SockaddrVM)
	if !ok {
		return Addr{}, fmt.Errorf("socket address is a %T, not one of vsock", sa)
	}
	return VsockAddr(vm.CID, vm.Port), nil
}

// vsockAcceptor listens on AF_VSOCK.
type vsockAcceptor struct {
	*socket.Conn
}

var _ acceptor = vsockAcceptor{}

func listenVsock(a Addr, cfg *ListenConfig) (acceptor, Addr, error) {
	s, err := openVsock(cfg.NetNS)
	if err != nil {
		return nil, Addr{}, err
	}
	bound, err := bindAndListen(s, a, cfg)
	if err != nil {
		s.Close()
		return nil, Addr{}, err
	}
	return vsockAcceptor{s}, bound, nil
}

func bindAndListen(s *socket.Conn, a Addr, cfg *ListenConfig) (Addr, error) {
	if err := setBufferSizes(s, cfg.BufferSizes); err != nil {
		return Addr{}, err
	}
	if err := s.Bind(&unix.SockaddrVM{CID: a.CID, Port: a.Port}); err != nil {
		return Addr{}, err
	}
	backlog := unix.SOMAXCONN
	if cfg.Backlog > 0 {
		backlog = cfg.Backlog
	}
	if err := s.Listen(backlog); err != nil {
		return Addr{}, err
	}
	return boundAddr(s)
}

func (v vsockAcceptor) accept() (*Conn, error) {
	s, sa, err := v.Accept(context.Background(), 0)
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: NetworkVsock, Err: err}
	}
	remote, err := addrOfVM(sa)
	if err == nil {
		var local Addr
		if local, err = boundAddr(s); err == nil {
			return newVsockConn(s, local, remote), nil
		}
	}
	s.Close()
	// The peer was gone before its address could be read.
	return nil, &net.OpError{Op: "accept", Net: NetworkVsock, Err: errors.Join(unix.ECONNABORTED, err)}
}

func (v vsockAcceptor) close() error { return v.Close() }

func (v vsockAcceptor) setDeadline(t time.Time) error { return v.SetReadDeadline(t) }

func (v vsockAcceptor) file() (*os.File, error) {
	rc, err := v.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var ferr error
	if err := rc.Control(func(orig uintptr) {
		fd, ferr = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if ferr != nil {
		return nil, os.NewSyscallError("fcntl", ferr)
	}
	return os.NewFile(uintptr(fd), NetworkVsock), nil
}

func available() error {
	s, err := openVsock(nil)
	if err != nil {
		return err
	}
	return s.Close()
}

// localCID asks /dev/vsock. Where that is not there, whether the kernel has
// vsock at all decides about the error.
func localCID() (uint32, error) {
	cid, err := vsock.ContextID()
	if err != nil {
		if aerr := available(); aerr != nil {
			return 0, aerr
		}
	}
	return cid, err
}
