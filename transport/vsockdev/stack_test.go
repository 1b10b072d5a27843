//go:build linux

package vsockdev

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// limit is how long anything here may take that does not hang.
const limit = 20 * time.Second

const guestCID = 3

// A fakeGuest is a guest's vsock over a driver: just enough of a stack for
// connections both ways.
type fakeGuest struct {
	*driver
	mu     sync.Mutex
	change *sync.Cond
	conns  map[key]*guestConn
	serve  map[uint32]func(*guestConn) // by port of the guest
	port   uint32
	ended  bool
}

// A guestConn is a connection as the guest has it.
type guestConn struct {
	flow
	g      *fakeGuest
	key    key
	unread []byte
	broken bool // by a reset that came before the end
}

var errGuestReset = errors.New("the connection was reset")

// guestBuffer is what the host may send ahead.
const guestBuffer = 64 << 10

// startDevice starts a device and returns the path of its socket.
func startDevice(t *testing.T, cfg Config) (*Device, string) {
	t.Helper()
	if cfg.CID == 0 {
		cfg.CID = guestCID
	}
	dev, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "vhost")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- dev.Serve(l) }()
	t.Cleanup(func() {
		dev.Close()
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return dev, path
}

// startGuest starts a guest on the device at path.
func startGuest(t *testing.T, path string, features uint64) *fakeGuest {
	t.Helper()
	g := &fakeGuest{driver: newDriver(t, path, features), conns: make(map[key]*guestConn), serve: make(map[uint32]func(*guestConn)), port: 50000}
	g.change = sync.NewCond(&g.mu)
	go g.run()
	return g
}

// run handles the packets of the device.
func (g *fakeGuest) run() {
	for p := range g.packets {
		g.mu.Lock()
		g.handle(p)
		g.mu.Unlock()
	}
	g.mu.Lock()
	g.ended = true
	g.change.Broadcast()
	g.mu.Unlock()
}

func (g *fakeGuest) handle(p packet) {
	k := key{guest: p.dstPort, host: p.srcPort}
	c := g.conns[k]
	if c == nil {
		switch serve := g.serve[k.guest]; {
		case p.op == opRequest && serve != nil:
			c = &guestConn{flow: offered(guestBuffer, &p.header), g: g, key: k}
			g.conns[k] = c
			c.accept()
			go serve(c)
		case p.op != opReset:
			go g.send(p.reset(), nil)
			return
		default:
			return
		}
	} else if c.receive(&p.header) {
		c.unread = append(c.unread, p.data...)
	}
	c.settle()
}

// settle sends what is due. g.mu is held; sending waits only for the device.
func (c *guestConn) settle() {
	h := header{srcCID: guestCID, dstCID: cidHost, srcPort: c.key.guest, dstPort: c.key.host, typ: typeStream}
	for c.next(&h) {
		c.g.send(h, nil)
	}
	if c.phase == phaseClosed && c.g.conns[c.key] == c {
		c.broken = c.peerShut&shutSend == 0
		delete(c.g.conns, c.key)
	}
	c.g.change.Broadcast()
}

// listen serves a port of the guest.
func (g *fakeGuest) listen(port uint32, serve func(*guestConn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve[port] = serve
}

// dial connects to a port of the host.
func (g *fakeGuest) dial(port uint32) (*guestConn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.port++
	c := &guestConn{flow: request(guestBuffer), g: g, key: key{guest: g.port, host: port}}
	g.conns[c.key] = c
	c.settle()
	for c.phase == phaseRequested && !g.ended {
		g.change.Wait()
	}
	if c.phase != phaseOpen {
		return nil, fmt.Errorf("port %d: %w", port, errGuestReset)
	}
	return c, nil
}

func (c *guestConn) Read(b []byte) (int, error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for {
		if n := copy(b, c.unread); n > 0 {
			c.unread = c.unread[n:]
			c.pass(n)
			c.settle()
			return n, nil
		}
		switch {
		case c.broken || c.g.ended:
			return 0, errGuestReset
		case c.peerShut&shutSend != 0 || c.phase == phaseClosed:
			return 0, io.EOF
		}
		c.g.change.Wait()
	}
}

func (c *guestConn) Write(b []byte) (n int, err error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for n < len(b) {
		if c.phase != phaseOpen || c.peerShut&shutRecv != 0 || c.shut&shutSend != 0 || c.g.ended {
			return n, errGuestReset
		}
		size := min(c.credit(), len(b)-n, 16384-headerSize)
		if size == 0 {
			c.g.change.Wait()
			continue
		}
		h := header{srcCID: guestCID, dstCID: cidHost, srcPort: c.key.guest, dstPort: c.key.host, typ: typeStream}
		c.data(&h, size)
		c.g.send(h, b[n:n+size])
		n += size
	}
	return n, nil
}

func (c *guestConn) end(flags uint32) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.close(flags)
	c.settle()
}

func (c *guestConn) CloseWrite() error { c.end(shutSend); return nil }
func (c *guestConn) Close() error      { c.end(shutBoth); return nil }

// echo sends back what comes, and then its end.
func echo(c *guestConn) {
	_, _ = io.Copy(c, c)
	c.CloseWrite()
}
