package vsockdev

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// packetTurn bounds what one pass of the loop takes from the guest, and
	// linkTurn the links that it serves.
	packetTurn = 256
	linkTurn   = 256

	// maxResets bounds the resets that wait for room in the guest. Beyond it
	// nothing more is taken from the guest.
	maxResets = 256

	// readChains bounds the guest's buffers that one read fills, and readBytes
	// their bytes. Guests give buffers of 4 KiB.
	readChains = 64
	readBytes  = 256 << 10

	// batchChains bounds the packets that one write takes.
	batchChains = 64
)

// A txBatch is packets of one link in a row whose bytes go to its socket in one
// write, from the guest's memory.
type txBatch struct {
	chain chain
	head  [headerSize]byte
	link  *link
	bufs  [][]byte
	heads []uint16
}

// fromGuest takes packets from the guest, and reports whether there are more.
func (s *session) fromGuest(r *ring) (more bool, err error) {
	r.refuseKicks()
	c := &s.tx.chain
	for range packetTurn {
		if len(s.resets) >= maxResets {
			s.flushBatch(r)
			return true, nil
		}
		ok, err := r.take(c)
		if err != nil {
			return false, err
		}
		if ok {
			if err := s.packet(r, c); err != nil {
				return false, err
			}
			continue
		}
		s.flushBatch(r)
		if !r.wantKicks() {
			return false, nil
		}
		r.refuseKicks()
	}
	s.flushBatch(r)
	return true, nil
}

// packet takes one packet of the guest. It gives the chain back, or has the
// batch do so.
func (s *session) packet(r *ring, c *chain) error {
	b := &s.tx
	if !gather(b.head[:], c.read) {
		return fmt.Errorf("a packet of %d bytes", c.readLen)
	}
	h := decodeHeader(b.head[:])
	l := s.links[key{guest: h.srcPort, host: h.dstPort}]
	if h.op != opRW || l == nil || l != b.link || len(b.heads) >= batchChains {
		s.flushBatch(r)
	}
	// A size that lies comes to nothing: the packet breaks the rules.
	lies := h.op == opRW && int64(h.len) > int64(c.readLen-headerSize)
	switch {
	case lies || h.srcCID != uint64(s.dev.cfg.CID) || h.dstCID != cidHost || h.typ != typeStream:
		s.refusePacket(&h)
	case l == nil && h.op == opRequest:
		s.requested(&h)
	case l == nil:
		s.refusePacket(&h)
	case l.receive(&h) && s.deliver(l, c, int(h.len)):
		b.link = l
		b.heads = append(b.heads, c.head)
		return nil
	default:
		s.flushBatch(r) // may be of this link, which after may end
		s.after(l)
	}
	s.flushBatch(r) // chains go back in order
	r.give(c.head, 0)
	return nil
}

// refusePacket answers a packet that belongs to no connection.
func (s *session) refusePacket(h *header) {
	if h.op != opReset {
		s.resets = append(s.resets, h.reset())
	}
}

// deliver takes the n bytes of a packet. It reports whether the batch has them.
func (s *session) deliver(l *link, c *chain, n int) (batched bool) {
	switch {
	case l.shut&shutRecv != 0:
		l.pass(n)
	case len(l.out) == 0 && l.writable:
		s.tx.bufs = window(s.tx.bufs, c.read, headerSize, n)
		return true
	default:
		l.keep(window(nil, c.read, headerSize, n))
	}
	return false
}

// flushBatch writes what the batch has, and gives its chains back.
func (s *session) flushBatch(r *ring) {
	b := &s.tx
	if b.link == nil {
		return
	}
	l := b.link
	n, rest := l.write(&s.vectors, b.bufs)
	if l.shut&shutRecv == 0 { // else it was refused, and dropped
		l.pass(n)
		l.keep(rest)
	}
	for _, head := range b.heads {
		r.give(head, 0)
	}
	b.link, b.bufs, b.heads = nil, b.bufs[:0], b.heads[:0]
	s.after(l)
}

// An rxBatch is the guest's buffers that one read fills.
type rxBatch struct {
	chains [readChains]chain
	bufs   [][]byte
	head   [headerSize]byte
}

// toGuest sends to the guest, and reports whether there is more that it has
// room for.
func (s *session) toGuest(r *ring) (more bool, err error) {
	r.refuseKicks()
	for range linkTurn {
		var sent bool
		switch {
		case len(s.resets) > 0:
			if sent, err = s.send(r, &s.resets[0]); sent {
				s.resets = s.resets[1:]
			}
		case len(s.queue) > 0:
			l := s.queue[0]
			if sent, err = s.serveLink(r, l); sent {
				s.queue = s.queue[1:]
				l.queued = false
				s.after(l)
			}
		default:
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if sent {
			continue
		}
		if !r.wantKicks() {
			return false, nil
		}
		r.refuseKicks()
	}
	return true, nil
}

// send sends one header without bytes. It reports false if the guest has no
// room.
func (s *session) send(r *ring, h *header) (bool, error) {
	c := &s.rx.chains[0]
	if ok, err := takeRoom(r, c); !ok {
		return false, err
	}
	h.encode(s.rx.head[:])
	scatter(c.write, s.rx.head[:])
	r.give(c.head, headerSize)
	return true, nil
}

// takeRoom takes a chain to write a packet to.
func takeRoom(r *ring, c *chain) (bool, error) {
	ok, err := r.take(c)
	if ok && c.writeN <= headerSize {
		err = fmt.Errorf("a receive buffer of %d bytes", c.writeN)
	}
	return ok && err == nil, err
}

// headerOf returns the fields that are the same in all packets to the guest.
func (s *session) headerOf(l *link) header {
	return header{srcCID: cidHost, dstCID: uint64(s.dev.cfg.CID), srcPort: l.key.host, dstPort: l.key.guest, typ: typeStream}
}

// serveLink sends what a link has to say, and a part of its bytes. It reports
// false if the guest's room was not enough to do something.
func (s *session) serveLink(r *ring, l *link) (bool, error) {
	if l.ended || l.settled {
		return true, nil
	}
	h := s.headerOf(l)
	for l.pending() {
		before := l.flow
		if !l.next(&h) {
			break
		}
		if ok, err := s.send(r, &h); !ok {
			l.flow = before
			return false, err
		}
	}
	if !l.wantsGuest() {
		return true, nil
	}
	return s.readLink(r, l, &h)
}

// readLink reads from a link's socket into the guest's buffers.
func (s *session) readLink(r *ring, l *link, h *header) (bool, error) {
	b := &s.rx
	room, n := 0, 0
	b.bufs = b.bufs[:0]
	want := min(l.credit(), readBytes)
	for ; room < want && n < readChains; n++ {
		c := &b.chains[n]
		ok, err := takeRoom(r, c)
		if err != nil {
			return false, err
		}
		if !ok {
			break
		}
		if len(b.bufs)+len(c.write) > maxIovecs {
			r.untake(1)
			break
		}
		size := min(c.writeN-headerSize, want-room)
		b.bufs = window(b.bufs, c.write, headerSize, size)
		room += size
	}
	if n == 0 {
		return false, nil
	}
	got, err := s.vectors.call(unix.SYS_READV, l.fd, b.bufs)
	if got < room && !l.readEnd {
		l.readable = false // a short read has emptied the socket
	}
	used := 0
	for left := got; left > 0; used++ {
		c := &b.chains[used]
		size := min(c.writeN-headerSize, left)
		l.data(h, size)
		h.encode(b.head[:])
		scatter(c.write, b.head[:])
		r.give(c.head, headerSize+size)
		left -= size
	}
	r.untake(n - used)
	if got == 0 {
		l.readFailed(err)
	}
	return true, nil
}

// readFailed notes that there was nothing to read, and why: err, or the end.
func (l *link) readFailed(err error) {
	switch {
	case errors.Is(err, unix.EINTR):
		l.readable = true
	case errors.Is(err, unix.EAGAIN):
		l.readable = false
	case err == nil && !l.gone:
		l.readable = false
		l.close(shutSend)
	default:
		l.readable = false
		l.close(shutBoth)
	}
}
