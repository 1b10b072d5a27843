package guest

import (
	"net"
	"reflect"
	"sync"
	"syscall"

	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// tracked returns conn as one that calls closed when it is closed, once. What makes
// calls on it quicker stays.
func tracked(conn net.Conn, closed func()) net.Conn {
	closed = sync.OnceFunc(closed)
	if c, ok := conn.(*transport.Conn); ok {
		return &trackedTransportConn{c, closed}
	}
	return &trackedConn{conn, closed}
}

type trackedTransportConn struct {
	*transport.Conn
	closed func()
}

// Close implements net.Conn.
func (c *trackedTransportConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// RawConn says that only Close differs from the connection below.
func (c *trackedTransportConn) RawConn() (self net.Conn, socket syscall.RawConn) {
	_, socket = c.Conn.RawConn()
	return c, socket
}

type trackedConn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// RawConn says that only Close differs from the connection below.
func (c *trackedConn) RawConn() (self net.Conn, socket syscall.RawConn) {
	switch below := c.Conn.(type) { // these types themselves, not what embeds them
	case *net.UnixConn:
		socket, _ = below.SyscallConn()
	case *net.TCPConn:
		socket, _ = below.SyscallConn()
	case rpc.RawConn:
		if reflect.TypeOf(below).Kind() == reflect.Pointer {
			if inner, raw := below.RawConn(); inner == below {
				socket = raw
			}
		}
	}
	return c, socket
}

// hooks calls Config.OnConnect and Config.OnLost, one at a time and in turns. It keeps
// no queue: what changes while a hook runs is told by the next calls as it is then.
type hooks struct {
	guest     *Guest
	onConnect func(*Guest, *guestv1.InfoResponse)
	onLost    func(*Guest)

	mu      sync.Mutex
	ready   bool                  // Dial has succeeded
	closed  bool                  // no hook is to begin any more
	running bool                  // a goroutine calls hooks
	conn    *oneConn              // that is in use now, nil if there is none
	info    *guestv1.InfoResponse // of the agent there
	told    *oneConn              // that OnConnect was called for last, and OnLost not yet
}

func (h *hooks) update(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	if h.ready && !h.running && h.told != h.conn && (h.onConnect != nil || h.onLost != nil) {
		h.running = true
		go h.run()
	}
}

// start begins with the calls: Dial has succeeded.
func (h *hooks) start() { h.update(func() { h.ready = true }) }

func (h *hooks) connected(c *oneConn, info *guestv1.InfoResponse) {
	h.update(func() {
		if !c.lost {
			h.conn, h.info = c, info
		}
	})
}

func (h *hooks) lost(c *oneConn) {
	h.update(func() {
		c.lost = true
		if h.conn == c {
			h.conn, h.info = nil, nil
			if !h.closed {
				h.guest.log.Info("connection lost")
			}
		}
	})
}

func (h *hooks) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// run calls hooks until they have told how it is.
func (h *hooks) run() {
	for {
		h.mu.Lock()
		if h.closed || h.told == h.conn {
			h.running = false
			h.mu.Unlock()
			return
		}
		info := h.info
		lost := h.told != nil
		if lost {
			h.told = nil
		} else {
			h.told = h.conn
		}
		h.mu.Unlock()
		switch {
		case lost && h.onLost != nil:
			h.onLost(h.guest)
		case !lost && h.onConnect != nil:
			h.onConnect(h.guest, info)
		}
	}
}
