package vsockdev

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/transport"
)

// A Device is the vsock device of one VM. Its methods may be called
// concurrently. The owner closes it.
type Device struct {
	cfg Config
	log *slog.Logger

	ctx     context.Context // ends with Close
	end     context.CancelFunc
	pending chan struct{} // holds one for each request to the guest that has no answer
	serving sync.Mutex    // held by the one who serves a front end
	keeper  *keeperClient // nil without a keeper

	mu        sync.Mutex
	session   *session // nil without a front end
	listeners map[uint32]*Listener
}

// New returns a device that no VM is connected to yet.
func New(cfg Config) (*Device, error) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		return nil, fmt.Errorf("vsockdev: rings are little-endian, this machine is not: %w", errors.ErrUnsupported)
	}
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg, log: cfg.Logger, pending: make(chan struct{}, cfg.MaxPending), listeners: make(map[uint32]*Listener)}
	if cfg.Keeper != nil {
		var err error
		if d.keeper, err = connectKeeper(cfg.Keeper, cfg.MaxConnections); err != nil {
			return nil, err
		}
	}
	d.ctx, d.end = context.WithCancel(context.Background())
	if d.keeper != nil {
		go func() {
			_, _, _ = receiveState(d.keeper.conn) // its end: it says nothing more
			d.Close()
		}()
	}
	return d, nil
}

// CID returns the guest's CID.
func (d *Device) CID() uint32 { return d.cfg.CID }

// Close ends the session of the front end, all connections and all listeners.
// Serve and ServeMux return. With a keeper, whose end closes the device too, the
// front end itself stays for the next device.
func (d *Device) Close() error {
	d.end()
	if d.keeper != nil {
		d.keeper.conn.Close()
	}
	d.mu.Lock()
	s, listeners := d.session, d.listeners
	d.listeners = make(map[uint32]*Listener)
	d.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
	if s != nil {
		s.kill(ErrClosed)
		<-s.done
	}
	return nil
}

// Serve serves the front ends that connect to l, one after the other: a VM may
// end and be started again. The connections of a VM end with it. Serve closes l,
// and returns when the device is closed (ErrClosed) or l fails.
func (d *Device) Serve(l net.Listener) error {
	defer l.Close()
	defer context.AfterFunc(d.ctx, func() { l.Close() })()
	if c, restore := d.keeper.front(); c != nil {
		if err := d.serveFrontEnd(c, restore); err != nil && d.ctx.Err() == nil {
			d.log.Warn("the kept front end's session failed", "err", err)
		}
	}
	for {
		c, err := l.Accept()
		if d.ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return ErrClosed
		}
		if err != nil {
			return err
		}
		if err := d.ServeFrontEnd(c); err != nil && d.ctx.Err() == nil {
			d.log.Warn("the front end's session failed", "err", err)
		}
	}
}

// ServeFrontEnd serves one front end until it ends, which is no error. It
// closes c, which must be a *net.UnixConn. While another is served it waits.
func (d *Device) ServeFrontEnd(c net.Conn) error {
	defer c.Close()
	u, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("vsockdev: a front end cannot come over a %T", c)
	}
	return d.serveFrontEnd(u, nil)
}

// serveFrontEnd serves u, after restore if that is not nil.
func (d *Device) serveFrontEnd(u *net.UnixConn, restore func(*session) error) error {
	defer u.Close()
	d.serving.Lock()
	defer d.serving.Unlock()
	s, err := newSession(d)
	if err != nil {
		return err
	}
	if restore != nil {
		if err := restore(s); err != nil {
			s.end()
			return err
		}
	}
	d.mu.Lock()
	d.session = s
	d.mu.Unlock()
	if d.ctx.Err() != nil { // closed meanwhile, perhaps without seeing s
		s.stop(ErrClosed)
	}
	d.log.Info("a front end is connected")
	err = s.serve(u)
	d.mu.Lock()
	d.session = nil
	d.mu.Unlock()
	d.log.Info("the front end is gone")
	if d.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}

// DialContext connects to a port of the guest, from a port of the host that
// says that the caller may be anybody (2^30 or more). It waits until the guest
// answers: one that is still booting answers when its vsock driver starts.
// Errors are those of this package and of ctx, in a *net.OpError.
func (d *Device) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	return d.dial(ctx, port, false)
}

// DialPrivileged is DialContext from a port below 1024: it says to the guest
// that the caller is root on the host, and is for callers for whom that is so.
func (d *Device) DialPrivileged(ctx context.Context, port uint32) (net.Conn, error) {
	return d.dial(ctx, port, true)
}

func (d *Device) dial(ctx context.Context, port uint32, privileged bool) (net.Conn, error) {
	remote := transport.VsockAddr(d.cfg.CID, port)
	conn, fd, err := newConn()
	if err == nil {
		var hostPort uint32
		conn.remote = remote
		if hostPort, err = d.open(ctx, outgoing{port: port, privileged: privileged, fd: fd, conn: conn}); err == nil {
			conn.local = transport.VsockAddr(transport.CIDHost, hostPort)
			return conn, nil
		}
		conn.Close()
	}
	return nil, &net.OpError{Op: "dial", Net: transport.NetworkVsock, Addr: remote, Err: err}
}

// open connects to the guest and returns the port on the host's side. It takes
// o.fd, and calls o.opened, if any, before bytes of the guest come.
func (d *Device) open(ctx context.Context, o outgoing) (uint32, error) {
	select {
	case d.pending <- struct{}{}:
		defer func() { <-d.pending }()
	case <-ctx.Done():
		unix.Close(o.fd)
		return 0, context.Cause(ctx)
	}
	d.mu.Lock()
	s := d.session
	d.mu.Unlock()
	if s == nil {
		unix.Close(o.fd)
		return 0, ErrNoGuest
	}
	type answer struct {
		port uint32
		err  error
	}
	answered := make(chan answer, 1)
	before := o.opened
	o.opened = func(port uint32, err error) {
		if before != nil {
			before(port, err)
		}
		answered <- answer{port, err}
	}
	var l *link
	if !s.post(func() { l = s.open(o) }) {
		unix.Close(o.fd)
		return 0, ErrNoGuest
	}
	select {
	case a := <-answered:
		return a.port, a.err
	case <-ctx.Done():
		s.post(func() { s.giveUp(l) })
		return 0, context.Cause(ctx)
	}
}

// dialer returns what makes the host's side of a connection that the guest
// asks for, or nil if there is nobody.
func (d *Device) dialer(k key) func(context.Context) (int, *Conn, error) {
	d.mu.Lock()
	l := d.listeners[k.host]
	d.mu.Unlock()
	switch {
	case l != nil:
		return func(context.Context) (int, *Conn, error) { return l.connect(k) }
	case d.cfg.Dial != nil:
		return func(ctx context.Context) (int, *Conn, error) {
			c, err := d.cfg.Dial(ctx, k.host)
			if err != nil {
				return -1, nil, err
			}
			fd, err := socketOf(c)
			return fd, nil, err
		}
	}
	return nil
}

// socketOf returns the socket of a connection, which is the caller's then, or
// one that is joined to the connection.
func socketOf(c net.Conn) (int, error) {
	if sc, ok := c.(syscall.Conn); ok {
		defer c.Close()
		return duplicate(sc)
	}
	conn, fd, err := newConn()
	if err != nil {
		c.Close()
		return -1, err
	}
	go join(conn, c)
	return fd, nil
}
