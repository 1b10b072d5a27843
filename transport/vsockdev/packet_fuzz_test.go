//go:build linux

package vsockdev

import (
	"encoding/binary"
	"io"
	"testing"
)

// FuzzPackets is the guest that sends any packets in a row, with few ports and
// credits, so that they meet connections in every state. Nothing is left of them
// at the end, and a buffer never holds more than its connection may send.
func FuzzPackets(f *testing.F) {
	packet := func(op, guest, host, flags byte, n uint16, alloc, passed byte) []byte {
		return []byte{op, guest, host, flags, byte(n), byte(n >> 8), alloc, passed}
	}
	join := func(packets ...[]byte) (b []byte) {
		for _, p := range packets {
			b = append(b, p...)
		}
		return b
	}
	f.Add(join(packet(opRequest, 1, 1, 0, 0, 9, 0), packet(opRW, 1, 1, 0, 500, 9, 0), packet(opShutdown, 1, 1, shutBoth, 0, 9, 0)))
	f.Add(join(packet(opRequest, 1, 1, 0, 0, 9, 0), packet(opRequest, 1, 1, 0, 0, 9, 0), packet(opReset, 1, 1, 0, 0, 0, 0)))
	f.Add(join(packet(opRequest, 1, 1, 0, 0, 0, 0), packet(opCreditUpdate, 1, 1, 0, 0, 255, 255), packet(opCreditRequest, 1, 1, 0, 0, 9, 0)))
	f.Fuzz(func(t *testing.T, packets []byte) {
		dev, err := New(Config{CID: guestCID, MaxConnections: 4, ConnBuffer: minBuffer, Buffers: 8 * minBuffer})
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		l, err := dev.Listen(1)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSession(dev)
		if err != nil {
			t.Fatal(err)
		}
		defer close(s.done)
		defer s.end()
		g := newLoopGuest(t, s)
		for i := 0; len(packets) >= 8; i++ {
			p := packets[:8]
			packets = packets[8:]
			h := header{srcCID: guestCID, dstCID: cidHost, typ: typeStream, op: uint16(p[0]) % 10, srcPort: uint32(p[1] % 4), dstPort: uint32(p[2] % 3),
				flags: uint32(p[3]), len: uint32(binary.LittleEndian.Uint16(p[4:])) % 6000, bufAlloc: uint32(p[6]) << 24, fwdCnt: uint32(p[7] % 8)}
			g.send(&h)
			for n := 0; s.work(); n++ {
				if n == 1000 {
					t.Fatalf("the loop goes round: %d resets, queue %v", len(s.resets), s.queue)
				}
			}
			for s.pending > 0 { // accepted in a goroutine
				s.runCalls()
			}
			for _, l := range s.links {
				if n := len(l.out) - l.written; n > int(l.alloc) {
					t.Fatalf("%d bytes in a buffer of %d", n, l.alloc)
				}
			}
			if s.broken || s.budget.used > 4 || len(s.resets) > maxResets {
				t.Fatalf("broken: %v, connections: %d, resets: %d", s.broken, s.budget.used, len(s.resets))
			}
			select {
			case c := <-l.queue:
				switch i % 3 {
				case 0:
					c.Close()
				case 1:
					io.WriteString(c, "to the guest")
					fallthrough
				default:
					defer c.Close()
				}
			default:
			}
			if i%4 == 0 {
				g.offer()
			}
		}
		s.endLinks(ErrReset)
		if s.budget.used != 0 || s.budget.free != dev.cfg.Buffers || len(s.links) != 0 {
			t.Fatalf("left: %d connections, %d bytes free, %d links", s.budget.used, s.budget.free, len(s.links))
		}
	})
}

// A loopGuest is a driver in the same goroutine as the session's loop.
type loopGuest struct {
	rx, tx         *ring
	data           []byte
	nextTX, nextRX uint16
}

func newLoopGuest(t *testing.T, s *session) *loopGuest {
	mem := testMemory(t, 1<<16)
	g := &loopGuest{data: mem.regions[0].data}
	for i, r := range []**ring{&g.rx, &g.tx} {
		at := uint64(userBase + 1024*i)
		var err error
		if *r, err = newRing(mem, testRing, at, at+128, at+256, 0, true, true); err != nil {
			t.Fatal(err)
		}
		s.setup.vrings[i].ring, s.setup.vrings[i].enabled = *r, true
	}
	for range testRing {
		g.offer()
	}
	return g
}

// send puts a packet into the ring; its bytes are whatever is there.
func (g *loopGuest) send(h *header) {
	if int(g.nextTX-g.tx.returned) >= testRing {
		return // the device takes no more
	}
	i := int(g.nextTX % testRing)
	h.encode(g.data[8192+6144*i%40960:])
	putDescriptor(g.tx.desc[16*i:], descriptor{guestBase + 8192 + uint64(6144*i%40960), headerSize + h.len, 0, 0})
	binary.LittleEndian.PutUint16(g.tx.avail[4+2*i:], uint16(i))
	g.nextTX++
	binary.LittleEndian.PutUint16(g.tx.avail[2:], g.nextTX)
}

// offer gives the device room for packets, as much as there is.
func (g *loopGuest) offer() {
	for int(g.nextRX-g.rx.returned) < testRing {
		i := int(g.nextRX % testRing)
		putDescriptor(g.rx.desc[16*i:], descriptor{guestBase + 4096 + uint64(256*i), 256, descWrite, 0})
		binary.LittleEndian.PutUint16(g.rx.avail[4+2*i:], uint16(i))
		g.nextRX++
		binary.LittleEndian.PutUint16(g.rx.avail[2:], g.nextRX)
	}
}
