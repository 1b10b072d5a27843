//go:build linux

package vsockdev

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
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
