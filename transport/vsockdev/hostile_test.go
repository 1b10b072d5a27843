//go:build linux

package vsockdev

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// raw returns a header of the guest's.
func raw(op uint16, guest, host uint32) header {
	return header{srcCID: guestCID, dstCID: cidHost, srcPort: guest, dstPort: host, typ: typeStream, op: op, bufAlloc: guestBuffer}
}

// next returns the next packet from the device.
func (d *driver) nextPacket() packet {
	d.t.Helper()
	select {
	case p, ok := <-d.packets:
		if ok {
			return p
		}
		d.t.Fatal("the device is gone")
	case <-time.After(limit):
		d.t.Fatal("no packet comes")
	}
	return packet{}
}

// expect has the next packet be one of an operation for a port of the guest.
func (d *driver) expect(op uint16, guest uint32) packet {
	d.t.Helper()
	p := d.nextPacket()
	if p.op != op || p.dstPort != guest {
		d.t.Fatalf("the device sends %+v, want operation %d to port %d", p.header, op, guest)
	}
	return p
}

// TestHostilePackets sends packets that no driver would, on a device that goes on
// afterwards.
func TestHostilePackets(t *testing.T) {
	forFeatures(t, func(t *testing.T, features uint64) {
		dev, path := startDevice(t, Config{})
		l, err := dev.Listen(2000)
		if err != nil {
			t.Fatal(err)
		}
		d := newDriver(t, path, features)
		with := func(h header, change func(*header)) header {
			change(&h)
			return h
		}
		for name, h := range map[string]header{
			"bytes of nothing":      raw(opRW, 1, 2),
			"shutdown of nothing":   with(raw(opShutdown, 1, 2), func(h *header) { h.flags = shutBoth }),
			"response to nothing":   raw(opResponse, 1, 2),
			"credit of nothing":     raw(opCreditUpdate, 1, 2),
			"no operation":          raw(0, 1, 2),
			"unknown operation":     raw(99, 1, 2),
			"another guest's CID":   with(raw(opRequest, 1, 2000), func(h *header) { h.srcCID = 4 }),
			"a CID of 64 bits":      with(raw(opRequest, 1, 2000), func(h *header) { h.srcCID |= 1 << 32 }),
			"to another guest":      with(raw(opRequest, 1, 2000), func(h *header) { h.dstCID = 4 }),
			"an unknown type":       with(raw(opRequest, 1, 2000), func(h *header) { h.typ = 2 }),
			"where nobody listens":  raw(opRequest, 1, 3000),
			"port of 2^32-1":        raw(opRequest, 1<<32-1, 1<<32-1),
			"more bytes than there": raw(opRW, 1, 2),
		} {
			d.send(h, nil)
			if p := d.expect(opReset, h.srcPort); p.dstCID != h.srcCID {
				t.Errorf("%s: %+v", name, p.header)
			}
		}
		d.send(raw(opReset, 1, 2), nil) // is not answered
		d.send(raw(opRequest, 5, 2000), nil)
		d.expect(opResponse, 5)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		d.send(raw(opRW, 5, 2000), []byte("still there"))
		d.send(raw(opRequest, 5, 2000), nil) // a second one of the same ports
		d.expect(opReset, 5)
		if got, err := io.ReadAll(c); string(got) != "still there" || !errors.Is(err, ErrReset) {
			t.Errorf("%q, %v", got, err)
		}
		c.Close()
		waitNoLinks(t, dev)
	})
}

// TestLyingLength sends a header that says more bytes than the packet has.
func TestLyingLength(t *testing.T) {
	dev, path := startDevice(t, Config{})
	if _, err := dev.Listen(2000); err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, path, 0)
	d.send(raw(opRequest, 5, 2000), nil)
	d.expect(opResponse, 5)
	for _, size := range []uint32{1, 100, 1 << 31, 1<<32 - 1} {
		h := raw(opRW, 5, 2000)
		h.len = size
		d.mu.Lock()
		r := d.rings[txRing]
		i := int(r.next) % (r.num / 4)
		h.encode(d.mem[r.buffers+i*16384:])
		d.descriptor(r.desc, i, uint64(guestBase+r.buffers+i*16384), headerSize, 0, 0)
		d.publish(r, uint16(i))
		d.mu.Unlock()
		d.notify(txRing)
		d.expect(opReset, 5)
	}
}

// TestBrokenRing breaks a ring: connections end, the device and others' go on,
// and a driver that starts anew is served.
func TestBrokenRing(t *testing.T) {
	dev, path := startDevice(t, Config{})
	l, err := dev.Listen(2000)
	if err != nil {
		t.Fatal(err)
	}
	other, otherPath := startDevice(t, Config{})
	startGuest(t, otherPath, 0).listen(7, echo)
	d := newDriver(t, path, 0)
	for round := range 3 {
		d.send(raw(opRequest, 5, 2000), nil)
		d.expect(opResponse, 5)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r := d.rings[txRing]
		d.mu.Lock()
		switch round {
		case 0:
			d.descriptor(r.desc, 0, 1, headerSize, 0, 0) // outside
			d.publish(r, 0)
		case 1:
			d.publish(r, ringSize)
		case 2:
			d.descriptor(r.desc, 0, guestBase+8192*8, headerSize-1, 0, 0) // no header
			d.publish(r, 0)
		}
		d.mu.Unlock()
		d.notify(txRing)
		if _, err := io.ReadAll(c); !errors.Is(err, ErrReset) {
			t.Errorf("round %d: read: %v, want %v", round, err, ErrReset)
		}
		c.Close()
		io.WriteString(dial(t, other, 7), "x")
		// The driver starts anew, as after a reset of the VM.
		d.mu.Lock()
		for i := range d.rings {
			if _, err := d.request(reqGetVringBase, numbers(uint32(i), uint32(0))); err != nil {
				t.Fatal(err)
			}
			r := d.rings[i]
			r.next, r.lastUsed = 0, 0
			clear(d.mem[r.avail : r.avail+4])
			clear(d.mem[r.used : r.used+4])
		}
		for i := range d.rings {
			d.setUpRing(i, 0)
		}
		for range ringSize {
			d.offer()
		}
		d.mu.Unlock()
		d.notify(rxRing)
	}
}

// TestPause stops the rings and starts them where they were, as a pause of the
// VM does, in the middle of a transfer; then where they were not, as a reset does.
func TestPause(t *testing.T) {
	dev, path := startDevice(t, Config{})
	g := startGuest(t, path, featureEventIdx)
	g.listen(7, echo)
	c := dial(t, dev, 7)
	want := randomBytes(1 << 20)
	go func() {
		_, _ = c.Write(want)
		c.CloseWrite()
	}()
	received := make(chan []byte, 1)
	go func() {
		got, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		received <- got
	}()
	for range 20 {
		var base [numRings]uint32
		for i := range base {
			answer, err := g.request(reqGetVringBase, numbers(uint32(i), uint32(0)))
			if err != nil || len(answer) != 8 {
				t.Fatal(answer, err)
			}
			base[i] = binary.NativeEndian.Uint32(answer[4:])
		}
		g.must(reqSetMemTable, memTable(), g.fd) // the memory moves
		for i := range base {
			g.setUpRing(i, base[i])
			g.notify(i)
		}
	}
	if got := <-received; len(got) != len(want) || string(got) != string(want) {
		t.Errorf("%d bytes came back of %d, or others", len(got), len(want))
	}
	c = dial(t, dev, 7)
	g.driver.mu.Lock()
	defer g.driver.mu.Unlock()
	for i := range numRings {
		if _, err := g.request(reqGetVringBase, numbers(uint32(i), uint32(0))); err != nil {
			t.Fatal(err)
		}
		g.setUpRing(i, uint32(g.rings[i].next)+1)
	}
	if _, err := io.ReadAll(c); !errors.Is(err, ErrReset) {
		t.Errorf("after a reset of the VM: %v, want %v", err, ErrReset)
	}
}

// TestMemoryChanges takes the guest's memory out of the table while the device
// uses it, and puts it back.
func TestMemoryChanges(t *testing.T) {
	dev, path := startDevice(t, Config{})
	g := startGuest(t, path, 0)
	g.listen(7, echo)
	c := dial(t, dev, 7)
	go func() {
		for {
			if _, err := c.Write(make([]byte, 10000)); err != nil {
				return
			}
		}
	}()
	go io.Copy(io.Discard, c)
	region := numbers(uint64(0), uint64(guestBase), uint64(memorySize), uint64(userBase), uint64(fileOffset))
	for range 50 {
		if answer, err := g.request(reqRemMemRegion, region); err != nil || len(answer) != 8 {
			t.Fatal(answer, err) // the rings are gone with it, so it says so
		}
		g.must(reqAddMemRegion, region, g.fd)
		for i := range numRings {
			answer, err := g.request(reqGetVringBase, numbers(uint32(i), uint32(0)))
			if err != nil {
				t.Fatal(err)
			}
			g.setUpRing(i, binary.NativeEndian.Uint32(answer[4:]))
			g.notify(i)
		}
	}
}

// TestMemoryShrinks makes the file shorter that is the guest's memory: that ends
// the VM's session and nothing else.
func TestMemoryShrinks(t *testing.T) {
	dev, path := startDevice(t, Config{})
	d := newDriver(t, path, 0)
	d.mu.Lock()
	d.quit.Store(true) // it must not touch its memory any more
	if err := unix.Ftruncate(d.fd, 0); err != nil {
		t.Fatal(err)
	}
	d.mu.Unlock()
	d.notify(txRing)
	d.notify(rxRing)
	for {
		if _, err := dev.DialContext(testContext(t), 7); errors.Is(err, ErrNoGuest) {
			break
		} else if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("dial: %v, want %v", err, ErrNoGuest)
		}
	}
	startGuest(t, path, 0).listen(7, echo)
	io.WriteString(dial(t, dev, 7), "x")
}

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
