package transport

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// An acceptor is a listening socket: *unixAcceptor, or on Linux
// *vsockAcceptor.
type acceptor interface {
	accept() (*Conn, error)
	close() error
	setDeadline(time.Time) error
	file() (*os.File, error)
	SyscallConn() (syscall.RawConn, error)
}

// Listener takes connections. It is a net.Listener; its methods may be called
// concurrently. The owner must Close it.
type Listener struct {
	acceptor acceptor
	addr     Addr
	name     string
	allow    func(Peer) error

	closeOnce sync.Once
	closeErr  error
	closed    chan struct{}
}

var (
	_ net.Listener = (*Listener)(nil)
	_ syscall.Conn = (*Listener)(nil)
)

// Listen listens on an address. A nil cfg means the defaults.
//
//   - vsock: a CID of CIDAny, the right choice for a server, takes connections
//     to whatever CID the machine has; another CID must be one of this machine.
//     Port PortAny lets the kernel choose; Addr tells which it chose.
//   - unix: a socket file that a dead listener left behind is replaced; one
//     that somebody still serves is ErrAddrInUse, as is any other file. Close
//     removes the file, unless it has been replaced by then.
//   - vsock-mux: takes the connections that the guest makes to the port of CID
//     2, on the Unix socket "<path>_<port>" where the VMM delivers them.
//
// ctx limits the call itself and has no effect on the listener. All errors are
// [*Error]. The caller must Close the listener.
func Listen(ctx context.Context, a Addr, cfg *ListenConfig) (*Listener, error) {
	if cfg == nil {
		cfg = &ListenConfig{}
	}
	if err := checkListen(a); err != nil {
		return nil, &Error{Op: "listen", Kind: KindBadAddress, Addr: a, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return nil, opError(ctx, "listen", a, false, err)
	}
	var acc acceptor
	var err error
	bound := a
	if a.Net == NetworkVsock {
		acc, bound, err = listenVsock(a, cfg)
	} else {
		acc, err = listenUnix(ctx, a, cfg)
	}
	if err != nil {
		return nil, opError(ctx, "listen", a, false, err)
	}
	return newListener(acc, bound, cfg), nil
}

func newListener(acc acceptor, a Addr, cfg *ListenConfig) *Listener {
	return &Listener{acceptor: acc, addr: a, allow: cfg.Accept, closed: make(chan struct{})}
}

// checkListen reports what makes a of no use for listening.
func checkListen(a Addr) error {
	switch a.Net {
	case NetworkVsock:
		if a.CID == 0 {
			return errors.New("CID 0 is reserved for the hypervisor: listen on CID any")
		}
		return nil
	case NetworkMux:
		if a.Port == PortAny {
			return errors.New("port any (-1): a vsock-mux address needs a port of its own")
		}
	case NetworkUnix:
	default:
		return errors.New("unknown network: want vsock, vsock-mux or unix")
	}
	if a.Path == "" {
		return errors.New("empty path")
	}
	return nil
}

// Accept returns the next connection, a [*Conn], which the caller must Close.
// See AcceptConn.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptConn()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Accept waits this long after it ran out of descriptors or memory, twice as
// long each time.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// AcceptConn returns the next connection that the Accept function of the
// ListenConfig lets in. It waits and goes on when the process or the system is
// out of descriptors or memory, and when a connection was aborted before it
// was accepted. After Close the error satisfies errors.Is(err, net.ErrClosed);
// after a deadline it is a timeout.
func (l *Listener) AcceptConn() (*Conn, error) {
	delay := minAcceptDelay
	for {
		c, err := l.acceptor.accept()
		switch {
		case err == nil:
			if l.allow != nil && l.allow(c.peer) != nil {
				c.Close()
				continue
			}
			return c, nil
		case l.isClosed():
			return nil, &net.OpError{Op: "accept", Net: l.addr.Net, Addr: l.addr, Err: net.ErrClosed}
		case isAny(err, syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR):
			// The peer went away first.
		case isAny(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM):
			select {
			case <-l.closed:
			case <-time.After(delay):
			}
			delay = min(2*delay, maxAcceptDelay)
		default:
			return nil, err
		}
	}
}

func (l *Listener) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

func isAny(err error, targets ...syscall.Errno) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}

// Addr returns the [Addr] that the listener is bound to, with the port that
// the kernel chose.
func (l *Listener) Addr() net.Addr { return l.addr }

// Name returns the name that systemd gave to an inherited socket
// (FileDescriptorName=), or "".
func (l *Listener) Name() string { return l.name }

// Close stops listening and ends a blocked Accept. Connections that were
// accepted are not affected. Only the first call has an effect; the others
// return the same error.
func (l *Listener) Close() error {
	l.closeOnce.Do(func() {
		close(l.closed)
		l.closeErr = l.acceptor.close()
	})
	return l.closeErr
}

// SetDeadline sets the time at which Accept fails with a timeout. The zero
// time means none.
func (l *Listener) SetDeadline(t time.Time) error { return l.acceptor.setDeadline(t) }

// File returns a copy of the listening socket, for instance to hand it to a
// new version of the program. Closing the copy does not close l, nor the
// reverse; but closing a Unix listener removes its file. The caller must close
// the copy.
func (l *Listener) File() (*os.File, error) { return l.acceptor.file() }

// SyscallConn gives access to the socket itself, as that of Conn does.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return l.acceptor.SyscallConn() }
