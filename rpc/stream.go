package rpc

import (
	"io"
	"runtime"
	"sync/atomic"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// stream is what both sides of a call have in common. Except where said, its
// fields are guarded by conn.mu.
type stream struct {
	c  *conn
	id uint32

	run      run
	stopped  atomic.Bool // err is set
	recv     wire.RecvWindow
	send     wire.SendWindow
	queue    []segment // received, not consumed
	complete int       // whole messages in queue
	want     int64     // bytes that the message at the end of queue still lacks
	inMsg    bool      // there is such a message
	reserved int64     // of conn.assembly
	queued   bool      // for conn.assembly
	waits    bool      // in conn.creditWait
	listed   int       // times it is in conn.roomWait and conn.wakes
	credited bool      // CREDIT has come since the message that is being sent was begun

	remoteClosed bool  // the peer sends no more messages
	localClosed  bool  // this side sends no more messages
	discards     bool  // nobody wants what still comes
	peerReset    bool  // the peer has sent RESET
	err          error // what receiving and sending return from now on
	eof          error // what receiving returns after the last message, if remoteClosed

	sv *serverStream // on a server
	cl *clientStream // on a client

	rw, sw waiter
	out    sock.Frame   // of the goroutine that sends
	ref    sock.Payload // likewise
	sent   atomic.Int32 // small messages sent in a row, without receiving
}

// segment is a message, or a piece of one, that was received.
type segment struct {
	msg   []byte
	own   *[]byte // where msg lies
	total int64   // of the first piece of a message: its whole length
	more  bool
}

// unlisted reports whether the connection does not know s any more, once that is
// out of its table. mu is held.
func (s *stream) unlisted() bool { return !s.waits && !s.queued && s.listed == 0 }

// receive takes a frame with a message or a piece of one, or with wire.FlagClose. It
// takes own.
func (s *stream) receive(h wire.Header, head, msg []byte, own *[]byte) error {
	c := s.c
	if s.remoteClosed {
		buf.Pool.Put(own)
		return wire.Errorf(wire.CodeProtocol, "%v on stream %d after its last", h.Type, h.Stream)
	}
	if s.cl != nil && h.Flags&wire.FlagClose != 0 {
		buf.Pool.Put(own)
		return wire.Errorf(wire.CodeProtocol, "%v with CLOSE from a server on stream %d, where only END ends it", h.Type, h.Stream)
	}
	if h.Flags&wire.FlagMsg != 0 {
		seg, err := s.accept(h, head, msg)
		if err != nil {
			buf.Pool.Put(own)
			return err
		}
		if s.cl != nil {
			s.cl.setHeader(nil) // a message means that there is none
		}
		if seg.own = own; own == nil {
			seg.own = buf.Pool.Copy(msg)
			seg.msg = *seg.own
		}
		if !c.share.hold(wire.Cost(len(msg)), 1) {
			buf.Pool.Put(seg.own)
			if !seg.more {
				c.credit(wire.Cost(len(msg)))
			}
			s.sv.refuse("the server holds too much that was not consumed")
			return nil
		}
		s.queue = append(s.queue, seg)
		if !seg.more {
			s.complete++
		}
		if !seg.more || s.reserved > 0 || s.want+seg.total > shortMessage || s.starved() {
			c.wakeLater(s)
		}
	} else {
		buf.Pool.Put(own)
		if h.Flags&wire.FlagClose == 0 && h.Type == wire.FrameData {
			if err := c.idleFrame("empty DATA"); err != nil {
				return err
			}
		}
	}
	if h.Flags&wire.FlagClose != 0 {
		if s.inMsg {
			return wire.Errorf(wire.CodeProtocol, "stream %d closed within a message", h.Stream)
		}
		s.remoteClosed = true
		if s.eof == nil {
			s.eof = io.EOF
		}
		c.wake(&s.rw, false)
	}
	return nil
}

// starved reports whether the peer's credit on s may not do for the rest of the message
// that comes in pieces, however it cuts that.
func (s *stream) starved() bool { return s.inMsg && s.recv.Credit < s.want+s.recv.Size/4 }

// throwAway accounts for DATA with a message of n bytes, or none, that nobody wants.
func (s *stream) throwAway(h wire.Header, n int) error {
	switch {
	case h.Flags&wire.FlagMsg != 0:
		if !s.recv.Receive(n) {
			return wire.Errorf(wire.CodeFlowControl, "DATA of %d bytes beyond the credit of stream %d, which is over", n, s.id)
		}
	case h.Flags&wire.FlagClose == 0 || s.remoteClosed:
		return s.c.idleFrame("empty DATA")
	}
	s.remoteClosed = s.remoteClosed || h.Flags&wire.FlagClose != 0
	return nil
}

// accept checks the frame against the credit and the message it belongs to.
func (s *stream) accept(h wire.Header, head, msg []byte) (segment, error) {
	n := len(msg)
	seg := segment{msg: msg, more: h.Flags&wire.FlagMore != 0}
	var total uint64
	var ok bool
	if seg.more || h.Type == wire.FrameData { // wire.ParseOpen has checked the head of an OPEN
		var err error
		if total, ok, err = wire.MessageLength(head); err != nil {
			return seg, err
		}
	}
	if !s.inMsg {
		seg.total = int64(n)
		if seg.more {
			if !ok || total <= uint64(n) || total > 1<<40 {
				return seg, wire.Errorf(wire.CodeProtocol, "%v begins a message without its right length", h.Type)
			}
			seg.total = int64(total)
		}
		s.want, s.inMsg = seg.total, true
	}
	if int64(n) > s.want || (int64(n) == s.want) == seg.more || seg.more && n == 0 {
		return seg, wire.Errorf(wire.CodeProtocol, "%v with %d bytes, where its message lacks %d", h.Type, n, s.want)
	}
	if !s.c.recv.Receive(n) {
		return seg, wire.Errorf(wire.CodeFlowControl, "%v of %d bytes beyond the connection's credit", h.Type, n)
	}
	if !s.recv.Receive(n) {
		return seg, wire.Errorf(wire.CodeFlowControl, "%v of %d bytes beyond the credit of stream %d", h.Type, n, s.id)
	}
	s.c.appendCredit(0, s.c.recv.Due())
	if seg.more {
		// The rest must be able to come, whatever other streams hold.
		s.c.credit(wire.Cost(n))
	}
	s.want -= int64(n)
	s.inMsg = seg.more
	return seg, nil
}

// unreserve ends the use of conn.assembly.
func (s *stream) unreserve() {
	if s.reserved > 0 || s.queued {
		if next := s.c.assembly.release(s); next != nil {
			s.c.wake(&next.rw, true)
		}
	}
}

// free gives back the memory of pieces that were taken off the queue and not
// delivered.
func (s *stream) free(pieces []segment) {
	for _, seg := range pieces {
		s.c.share.free(wire.Cost(len(seg.msg)))
		buf.Pool.Put(seg.own)
	}
}

// dropTail throws away the pieces of a message whose rest will not come. mu is held.
func (s *stream) dropTail() {
	s.inMsg, s.want = false, 0
	k := len(s.queue)
	for k > 0 && s.queue[k-1].more {
		k--
	}
	s.free(s.queue[k:])
	clear(s.queue[k:])
	s.queue = s.queue[:k]
}

// discard throws away what was received, and what still comes. mu is held.
func (s *stream) discard() {
	s.discards = true
	n := s.run.cost
	s.run.cost = 0
	s.c.share.free(n)
	for _, seg := range s.queue {
		if !seg.more { // of the others it was given back at once
			n += wire.Cost(len(seg.msg))
		}
	}
	s.free(s.queue)
	clear(s.queue)
	s.queue, s.complete = s.queue[:0], 0
	if n > 0 {
		s.c.credit(n)
	}
}

const (
	chunk = 64 << 10 // a piece of a long message
	// leastChunk is the shortest piece worth sending while the rest has to wait.
	leastChunk = 16 << 10
	// longMessage is how much of a message may be sent before the receiver has
	// given credit for it: it may have to wait until others are put together.
	longMessage = 128 << 10
	// shortMessage is how long a message may be that waits for its last piece
	// without being put together on the way. It must not exceed longMessage, or
	// both sides would wait for each other.
	shortMessage = 64 << 10
	// headRoom is what the head of a DATA frame may take.
	headRoom = 16
	// bulk is from how many small messages in a row on they are collected.
	bulk = 2
)

// sendMessage sends the message a followed by b, as one or more DATA frames, the
// last of them with flags. It returns when a and b are no longer needed.
func (s *stream) sendMessage(a, b []byte, flags uint8, when sock.When) error {
	c := s.c
	total := len(a) + len(b)
	for off, first := 0, true; first || off < total; first = false {
		n := total - off
		if n > wire.MaxPayload-headRoom {
			n = chunk
		}
		c.mu.Lock()
		if first {
			s.credited = false
		}
		n, err := s.allowed(n, min(n, leastChunk), off >= longMessage)
		if err != nil {
			c.mu.Unlock()
			return err
		}
		f := &s.out
		*f = sock.Frame{Header: wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg, Stream: s.id}}
		if off+n < total {
			f.Header.Flags |= wire.FlagMore
			if first {
				var room [headRoom]byte
				f.Header.Flags |= wire.FlagHead
				f.Head = wire.AppendUintItem(room[:0], wire.TagLength, uint64(total))
			}
		} else {
			f.Header.Flags |= flags
			if flags&wire.FlagClose != 0 {
				s.localClosed = true
			}
		}
		s.cut(a, b, off, n)
		s.write(f, when)
		off += n
	}
	return nil
}

// cut makes bytes off to off+n of the message a, b the message of s.out. mu is held.
func (s *stream) cut(a, b []byte, off, n int) {
	f := &s.out
	if off < len(a) {
		f.Msg = a[off:min(off+n, len(a))]
		n -= len(f.Msg)
		off = 0
	} else {
		off -= len(a)
	}
	b = b[off : off+n]
	if s.c.w.ByReference(n) {
		s.ref.B, s.ref.Owner, s.ref.Done = b, s, false
		f.Ref = &s.ref
	} else {
		f.More = b
	}
}

// allowed waits until a frame of up to n message bytes may be sent, and no fewer
// than least, takes the credit, and returns how many. With asked, it waits in any
// case until CREDIT for the message has come. mu is held.
func (s *stream) allowed(n, least int, asked bool) (int, error) {
	c := s.c
	flushed := false
	for {
		if s.err != nil {
			return 0, s.err
		}
		if c.err != nil {
			return 0, lostError(c.err)
		}
		if s.localClosed {
			return 0, io.EOF
		}
		k, ok := s.send.Fit(n, least)
		ok = ok && (s.credited || !asked)
		if ok {
			k, ok = c.send.Fit(k, min(k, least))
		}
		if ok {
			if !c.w.AwaitRoom() {
				s.send.Take(k)
				c.send.Take(k)
				return k, nil
			}
			c.roomWait = append(c.roomWait, s)
			s.listed++
		} else if !flushed {
			// What this side has left for later may be what the peer waits for.
			flushed = true
			c.mu.Unlock()
			c.w.Flush()
			c.mu.Lock()
			continue
		} else if !s.waits {
			s.waits = true
			c.creditWait = append(c.creditWait, s)
		}
		c.await(&s.sw)
	}
}

// write appends f, with s.ref if it has a ref, and sees to it that it is written. It
// unlocks conn.mu, and returns when the frame's payload is no longer needed.
func (s *stream) write(f *sock.Frame, when sock.When) {
	c := s.c
	run := c.w.Append(f, when)
	c.mu.Unlock()
	if run {
		if when == sock.Yield && c.inFlight.Load() > 1 {
			runtime.Gosched()
		}
		if f.Ref != nil {
			c.w.Run(true)
		} else {
			c.w.Run(false)
		}
	}
	if f.Ref != nil {
		s.awaitRef()
	}
	*f = sock.Frame{}
}

// awaitRef waits until the payload in s.ref is written or copied.
func (s *stream) awaitRef() {
	c := s.c
	c.mu.Lock()
	for !s.ref.Done {
		if s.err != nil && s.err != errHandlerDone || c.err != nil {
			c.mu.Unlock()
			withdrawn := c.w.Withdraw(&s.ref)
			if !withdrawn {
				c.w.Kick()
			}
			c.mu.Lock() // which stop looks at the payload under
			if withdrawn || s.ref.Done {
				break
			}
		}
		c.await(&s.sw)
	}
	s.ref = sock.Payload{}
	c.mu.Unlock()
}

// bulkWhen says when a small message of a stream is written: from the third in a row on
// they are collected.
func (s *stream) bulkWhen(n int) sock.When {
	if s.c.w.ByReference(n) {
		s.sent.Store(0)
		return sock.Now
	}
	if s.sent.Add(1) > bulk {
		return sock.Soon
	}
	return sock.Now
}

// stop ends s with err, for all its users. mu is held; outside is as of conn.wake.
func (s *stream) stop(err error, outside bool) {
	if s.err == nil {
		s.err = err
		s.stopped.Store(true)
	}
	s.discard()
	s.unreserve()
	s.c.wake(&s.rw, outside)
	s.c.wake(&s.sw, outside)
	if s.ref.B != nil {
		s.c.w.Kick()
	}
}

// lost ends s because the connection has ended. mu is held.
func (s *stream) lost(err error) {
	if s.remoteClosed && s.eof != nil && s.eof != io.EOF {
		return // its status is known
	}
	s.c.role.lost(s, lostError(err))
}
