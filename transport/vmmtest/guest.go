package vmmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/vsockrpc/vsockrpc/transport"
)

// backlog is how many connections wait for a listener's Accept: SOMAXCONN.
const backlog = 4096

// A target is what the guest has at a port.
type target interface {
	// connect makes a connection whose other end is the host's port number.
	connect(ctx context.Context, number uint32) (stream, error)
	close()
}

var (
	_ target       = (*listener)(nil)
	_ target       = (*forward)(nil)
	_ net.Listener = (*listener)(nil)
)

// Listen listens on a port of the guest, on all its CIDs. What it accepts are
// [*Conn]. As in a kernel, the host's connection is established before it is
// accepted. An error is a [*transport.Error]. Closing the listener closes what
// was not accepted and nothing else; the VMM's Close closes it.
func (v *VMM) Listen(port uint32) (net.Listener, error) {
	l := &listener{
		vmm:     v,
		port:    port,
		addr:    transport.VsockAddr(transport.CIDAny, port),
		waiting: make(chan *Conn, backlog),
		closed:  make(chan struct{}),
	}
	if err := v.setTarget(port, l); err != nil {
		return nil, err
	}
	return l, nil
}

// Forward connects a port of the guest to a Unix socket, "unix:/path", where a
// process stands for what listens in the guest. Each connection of the host
// makes one to that socket, over which bytes, half-closes and resets pass; if
// it cannot be made, the host's is refused. The process sees its real peer, the
// process of the VMM, and no CID.
func (v *VMM) Forward(port uint32, addr string) error {
	a, err := transport.ParseAddr(addr)
	if err != nil {
		return err
	}
	if a.Net != transport.NetworkUnix {
		return &transport.Error{Op: "listen", Kind: transport.KindBadAddress, Addr: a, Err: errors.New("a guest's port is forwarded to a unix address only")}
	}
	return v.setTarget(port, &forward{path: a.Path})
}

func (v *VMM) setTarget(port uint32, t target) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := &transport.Error{Op: "listen", Addr: transport.VsockAddr(transport.CIDAny, port)}
	switch {
	case v.closed:
		e.Kind, e.Err = transport.KindOther, net.ErrClosed
	case port == transport.PortAny:
		e.Kind, e.Err = transport.KindBadAddress, errors.New("a port is needed")
	case v.targets[port] != nil:
		e.Kind, e.Err = transport.KindAddrInUse, os.NewSyscallError("bind", syscall.EADDRINUSE)
	default:
		v.targets[port] = t
		return nil
	}
	return e
}

// Dial connects from the guest to a port of the host, CID 2: to the Unix socket
// "<Path>_<port>". With a paused guest it waits. An error is a
// [*transport.Error], of KindNotListening if nobody listens there. The caller
// must Close the connection.
func (v *VMM) Dial(ctx context.Context, port uint32) (*Conn, error) {
	remote := transport.VsockAddr(transport.CIDHost, port)
	fail := func(kind transport.Kind, err error) (*Conn, error) {
		return nil, &transport.Error{Op: "dial", Kind: kind, Addr: remote, Err: err}
	}
	m := v.waitMode(ctx, v.ctx.Done(), func(m *mode) bool { return !m.paused })
	switch {
	case m != nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(transport.KindGuestBooting, ctx.Err())
	case ctx.Err() != nil:
		return fail(transport.KindCanceled, ctx.Err())
	default:
		return fail(transport.KindOther, net.ErrClosed)
	}
	var d net.Dialer
	u, err := d.DialContext(ctx, "unix", fmt.Sprintf("%s_%d", v.Path, port))
	if err != nil {
		return fail(transport.KindNotListening, os.NewSyscallError("connect", syscall.ECONNRESET))
	}
	host, err := newHostStream(u.(*net.UnixConn))
	if err != nil {
		u.Close()
		return fail(transport.KindOther, err)
	}
	conn, guest := pipe(transport.VsockAddr(v.config.GuestCID, v.ephemeralPort()), remote)
	l := newLink(v, host)
	ready := make(chan struct{})
	if !v.start(l, func(l *link) { <-ready; v.run(l) }) {
		return fail(transport.KindOther, net.ErrClosed)
	}
	defer close(ready)
	if !v.admit(l) || !l.join(guest, m.Seed) {
		l.close()
		return fail(transport.KindNotListening, os.NewSyscallError("connect", syscall.ECONNRESET))
	}
	v.establish(l, &v.fromGuest)
	return conn, nil
}

// run runs a link if it has both its sides.
func (v *VMM) run(l *link) {
	if v.isEstablished(l) {
		l.run()
	}
}

// ephemeralPort returns a port of the guest for dialing.
func (v *VMM) ephemeralPort() uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ephemera++
	return v.ephemera
}

// A listener listens in the guest, within this process.
type listener struct {
	vmm  *VMM
	port uint32
	addr transport.Addr

	mu      sync.Mutex // for sending and closing
	waiting chan *Conn
	closed  chan struct{}
	isDone  bool
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
	case c := <-l.waiting:
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Net: transport.NetworkVsock, Addr: l.addr, Err: net.ErrClosed}
}

// Addr returns the [transport.Addr] on which the guest listens.
func (l *listener) Addr() net.Addr { return l.addr }

// Close stops listening.
func (l *listener) Close() error {
	l.vmm.mu.Lock()
	if l.vmm.targets[l.port] == target(l) {
		delete(l.vmm.targets, l.port)
	}
	l.vmm.mu.Unlock()
	l.close()
	return nil
}

func (l *listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isDone {
		return
	}
	l.isDone = true
	close(l.closed)
	for {
		select {
		case c := <-l.waiting:
			c.Close()
		default:
			return
		}
	}
}

func (l *listener) connect(_ context.Context, number uint32) (stream, error) {
	local := transport.VsockAddr(l.vmm.config.GuestCID, l.port)
	conn, guest := pipe(local, transport.VsockAddr(transport.CIDHost, number))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isDone {
		return nil, net.ErrClosed
	}
	select {
	case l.waiting <- conn:
		return guest, nil
	default:
		return nil, errors.New("backlog is full")
	}
}

// A forward is a Unix socket that stands for what listens in the guest.
type forward struct{ path string }

func (f *forward) connect(ctx context.Context, _ uint32) (stream, error) {
	var d net.Dialer
	u, err := d.DialContext(ctx, "unix", f.path)
	if err != nil {
		return nil, err
	}
	return newHostStream(u.(*net.UnixConn))
}

func (*forward) close() {}
