package vsockdev

import (
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/transport"
)

// maxBacklog bounds the connections of a [Listener] that wait for Accept.
const maxBacklog = 128

// A Listener takes the connections of the guest to one port of the host. They
// are accepted at once, and wait for Accept; when 128 wait, more are refused.
type Listener struct {
	device *Device
	addr   transport.Addr
	queue  chan *Conn

	mu     sync.Mutex
	closed chan struct{}
}

var _ net.Listener = (*Listener)(nil)

// Listen takes the guest's connections to a port of the host. They come from
// the VMs that the device has one after the other. The owner closes the
// listener.
func (d *Device) Listen(port uint32) (*Listener, error) {
	l := &Listener{device: d, addr: transport.VsockAddr(transport.CIDHost, port), queue: make(chan *Conn, maxBacklog), closed: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ctx.Err() != nil:
		return nil, &net.OpError{Op: "listen", Net: transport.NetworkVsock, Addr: l.addr, Err: ErrClosed}
	case d.listeners[port] != nil:
		return nil, &net.OpError{Op: "listen", Net: transport.NetworkVsock, Addr: l.addr, Err: unix.EADDRINUSE}
	}
	d.listeners[port] = l
	return l, nil
}

// connect makes a connection that waits for Accept, and returns the device's
// end of it.
func (l *Listener) connect(k key) (int, *Conn, error) {
	c, fd, err := newConn()
	if err != nil {
		return -1, nil, err
	}
	c.local, c.remote = l.addr, transport.VsockAddr(l.device.cfg.CID, k.guest)
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		err = ErrClosed
	default:
		select {
		case l.queue <- c:
			return fd, c, nil
		default:
			err = fmt.Errorf("%w: %d wait for Accept", ErrTooMany, maxBacklog)
		}
	}
	c.Close()
	unix.Close(fd)
	return -1, nil, err
}

// Accept returns the next connection, a *[Conn].
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed: // also if one waits
	default:
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.closed:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: transport.NetworkVsock, Addr: l.addr, Err: ErrClosed}
}

// Close ends Accept, and closes the connections that wait for it. The guest's
// next ones are refused, or go to [Config].Dial.
func (l *Listener) Close() error {
	l.device.mu.Lock()
	if l.device.listeners[l.addr.Port] == l {
		delete(l.device.listeners, l.addr.Port)
	}
	l.device.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		return nil
	default:
	}
	close(l.closed)
	for {
		select {
		case c := <-l.queue:
			c.Close()
		default:
			return nil
		}
	}
}

// Addr returns the host's address, a [transport.Addr].
func (l *Listener) Addr() net.Addr { return l.addr }
