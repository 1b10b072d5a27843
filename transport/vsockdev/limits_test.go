//go:build linux

package vsockdev

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// TestResetFlood sends packets of no connection and takes no answer: the device
// stops taking them.
func TestResetFlood(t *testing.T) {
	dev, path := startDevice(t, Config{})
	d := connectDriver(t, path, featureEventIdx)
	d.setUp() // no room for answers
	const flood = 4 * maxResets
	go func() {
		for i := range uint32(flood) {
			d.send(raw(opRW, i, 1), nil)
		}
	}()
	var s *session
	waiting := 0
	for ctx := testContext(t); waiting < maxResets; {
		if ctx.Err() != nil {
			t.Fatalf("%d answers wait", waiting)
		}
		dev.mu.Lock()
		s = dev.session
		dev.mu.Unlock()
		if err := s.do(func() { waiting = len(s.resets) }); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if err := s.do(func() { waiting = max(waiting, len(s.resets)) }); err != nil {
			t.Fatal(err)
		}
	}
	if waiting > maxResets {
		t.Errorf("%d answers wait, want %d at most", waiting, maxResets)
	}
	for range d.rings[rxRing].num {
		d.offer()
	}
	d.notify(rxRing)
	go d.receive()
	for i := range uint32(flood) {
		d.expect(opReset, i)
	}
}

// TestMaxConnections opens more connections than there may be, from each side.
func TestMaxConnections(t *testing.T) {
	const most = 8
	dev, path := startDevice(t, Config{MaxConnections: most})
	l, err := dev.Listen(2000)
	if err != nil {
		t.Fatal(err)
	}
	g := startGuest(t, path, 0)
	g.listen(7, func(c *guestConn) { // reads nothing
		g.mu.Lock()
		for !g.ended && c.phase != phaseClosed {
			g.change.Wait()
		}
		g.mu.Unlock()
	})
	var host []net.Conn
	for i := range most {
		if i%2 == 0 {
			host = append(host, dial(t, dev, 7))
			continue
		}
		if _, err := g.dial(2000); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := dev.DialContext(testContext(t), 7); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more from the host: %v, want %v", err, ErrTooMany)
	}
	if _, err := g.dial(2000); !errors.Is(err, errGuestReset) {
		t.Errorf("one more from the guest: %v, want a reset", err)
	}
	// One that the host has closed and the guest has not read gives way.
	g.mu.Lock()
	defer g.mu.Unlock()
	for range 2 { // of which one is only in the socket
		host[0].(*Conn).Write(make([]byte, guestBuffer))
	}
	host[0].Close()
	ended := make(chan error, 1)
	go func() {
		_, err := dev.DialContext(testContext(t), 7)
		ended <- err
	}()
	for {
		select {
		case err := <-ended:
			if !errors.Is(err, ErrTooMany) {
				t.Fatal(err)
			}
			go func() { // host[0]'s end had not been seen yet
				_, err := dev.DialContext(testContext(t), 7)
				ended <- err
			}()
			continue
		case p := <-g.packets:
			if p.op != opRequest {
				continue
			}
		case <-time.After(limit):
			t.Error("no new connection")
		}
		return
	}
}

// TestMaxPending has more connections than may wait for an answer, from each
// side.
func TestMaxPending(t *testing.T) {
	const most = 4
	release := make(chan struct{})
	dev, path := startDevice(t, Config{MaxPending: most, Dial: func(context.Context, uint32) (net.Conn, error) {
		<-release
		return nil, errors.New("no")
	}})
	d := newDriver(t, path, 0)
	for i := range uint32(most + 1) {
		d.send(raw(opRequest, i, 2000), nil)
	}
	d.expect(opReset, most)
	close(release)
	for range most {
		if p := d.nextPacket(); p.op != opReset {
			t.Errorf("answer %+v, want a reset", p.header)
		}
	}
	// The guest does not answer, so the next from the host waits for its turn.
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, most)
	for range most {
		go func() {
			_, err := dev.DialContext(ctx, 7)
			failed <- err
		}()
	}
	for range most {
		d.expect(opRequest, 7)
	}
	late, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if _, err := dev.DialContext(late, 7); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	for range most {
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		d.expect(opReset, 7)
	}
	select {
	case p := <-d.packets:
		t.Errorf("the guest gets %+v", p.header)
	default:
	}
	waitNoLinks(t, dev)
}

// TestBuffers has the guest send to readers that do not read: what the device
// holds stays within its bounds, for a connection and for all.
func TestBuffers(t *testing.T) {
	const all, each, most = 1 << 20, 256 << 10, 32
	dev, path := startDevice(t, Config{Buffers: all, ConnBuffer: each, MaxConnections: most})
	l, err := dev.Listen(2000)
	if err != nil {
		t.Fatal(err)
	}
	g := startGuest(t, path, featureEventIdx)
	sizes := make(map[uint32]int)
	for range most {
		gc, err := g.dial(2000)
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		g.mu.Lock()
		sizes[gc.peerAlloc]++
		g.mu.Unlock()
		go gc.Write(make([]byte, 2<<20))
	}
	if sizes[each] == 0 || sizes[all/most/2] == 0 {
		t.Errorf("buffers: %v, want some of %d and some of %d", sizes, each, all/most/2)
	}
	full := false
	for ctx := testContext(t); !full; {
		if ctx.Err() != nil {
			t.Fatal("the guest does not fill the buffers")
		}
		dev.mu.Lock()
		s := dev.session
		dev.mu.Unlock()
		var held, heldMost int
		full = true
		if err := s.do(func() {
			for _, l := range s.links {
				n := len(l.out) - l.written
				held += n
				heldMost = max(heldMost, n)
				full = full && l.received-l.told == l.alloc // no credit that the guest knows of
			}
		}); err != nil {
			t.Fatal(err)
		}
		if held > all || heldMost > each {
			t.Fatalf("%d bytes are held, %d of one connection", held, heldMost)
		}
	}
}
