package rpc

import (
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// message is a received message. It is freed once.
type message struct {
	data []byte
	own  *[]byte // where data lies; nil: in the read buffer, until the handler has decoded it
}

// A run is whole messages that were taken off the queue together, to be consumed
// without asking for the lock each time. It belongs to the goroutine that receives.
type run struct {
	segs []segment
	at   int   // the next one
	cost int64 // of all of them, until that is given back; guarded by conn.mu
}

// maxRun is how many bytes of messages are taken at once, so that the credit for
// them is not held back too long.
const maxRun = 64 << 10

// next waits for the next message, of at most limit bytes.
func (s *stream) next(limit int) (message, error) {
	if s.run.at < len(s.run.segs) && !s.stopped.Load() {
		return s.nextOfRun(limit)
	}
	c := s.c
	c.mu.Lock()
	s.settle()
	var as assembling
	for {
		switch {
		case s.err != nil:
			return as.abort(s, s.err)
		case len(s.queue) > 0:
			first := &s.queue[0]
			if as.total == 0 && !first.more {
				s.takeRun()
				c.mu.Unlock()
				return s.nextOfRun(limit)
			}
			if as.have == 0 && first.total > int64(limit) {
				return as.abort(s, tooLarge(first.total, limit))
			}
			if done, retry := as.step(s); done {
				return as.finish(s)
			} else if retry {
				continue
			}
		case s.remoteClosed:
			return as.abort(s, s.eof)
		}
		c.await(&s.rw)
	}
}

// only waits for the one message of an answer, of at most limit bytes, and for the
// end of the stream, if that says OK and nothing else. If it is not so ok is false,
// and next returns what there is. released says that the connection does not know s any
// more.
func (s *stream) only(limit int) (m message, released, ok bool) {
	c := s.c
	c.mu.Lock()
	for s.err == nil && !s.remoteClosed && len(s.queue) == 0 {
		c.await(&s.rw)
	}
	if s.err != nil || s.eof != io.EOF || len(s.queue) != 1 || s.queue[0].more || s.queue[0].total > int64(limit) {
		c.mu.Unlock()
		return message{}, false, false
	}
	seg := &s.queue[0]
	m = message{data: seg.msg, own: seg.own}
	*seg = segment{}
	s.queue, s.complete = s.queue[:0], 0
	frames := c.credit(wire.Cost(len(m.data)))
	c.share.free(wire.Cost(len(m.data)))
	released = s.unlisted()
	c.mu.Unlock()
	if frames {
		c.w.Flush()
	}
	return m, released, true
}

func tooLarge(n int64, limit int) error {
	return status.Errorf(codes.ResourceExhausted, "rpc: received message larger than max (%d vs. %d)", n, limit)
}

// nextOfRun returns the next message of the run.
func (s *stream) nextOfRun(limit int) (message, error) {
	seg := &s.run.segs[s.run.at]
	if len(seg.msg) > limit {
		return message{}, tooLarge(seg.total, limit)
	}
	s.run.at++
	m := message{data: seg.msg, own: seg.own}
	*seg = segment{}
	return m, nil
}

// takeRun makes whole messages at the head of the queue the run. mu is held.
func (s *stream) takeRun() {
	k, n := 0, int64(0)
	for k < len(s.queue) && !s.queue[k].more && (k == 0 || n < maxRun) {
		n += wire.Cost(len(s.queue[k].msg))
		k++
	}
	r := &s.run
	r.at, r.cost = 0, n
	if k == len(s.queue) {
		r.segs, s.queue = s.queue, r.segs[:0]
	} else {
		r.segs = append(r.segs[:0], s.queue[:k]...)
		s.pop(k)
	}
	s.complete -= k
}

// settle gives back the credit for a run that is consumed. mu is held, but not all
// the time.
func (s *stream) settle() {
	n := s.run.cost
	if n == 0 {
		return
	}
	s.run.cost = 0
	frames := s.giveBack(n, false)
	if s.c.credit(n) || frames {
		s.c.mu.Unlock()
		s.c.w.Flush()
		s.c.mu.Lock()
	}
	s.c.share.free(n)
}

// assembling is a message in pieces that is put together. It belongs to the
// goroutine that receives.
type assembling struct {
	total  int64     // message bytes of the whole; 0: it has not begun
	pieces []segment // taken off the queue, not in buf yet
	have   int64     // message bytes of pieces and buf
	buf    *[]byte   // nil: there is no room for the whole yet
	at     int       // bytes in buf
}

// step takes what there is of the message at the head of the queue. It reports
// whether that is all, or else whether the caller should look again. mu is held,
// but not all the time.
func (as *assembling) step(s *stream) (done, retry bool) {
	if as.total == 0 {
		total := s.queue[0].total
		if s.complete == 0 && (total <= shortMessage && !s.starved() || total > shortMessage && !s.c.assembly.reserve(s, total)) {
			return false, false // it is not its turn, or not worth beginning
		}
		as.total = total
	}
	n := int64(0)
	k := 0
	for k < len(s.queue) && !done {
		seg := s.queue[k]
		n += wire.Cost(len(seg.msg))
		as.have += int64(len(seg.msg))
		as.pieces = append(as.pieces, seg)
		done = !seg.more
		k++
	}
	s.pop(k)
	var frames bool
	if done {
		s.complete--
		s.unreserve()
		// For the other pieces the connection's was given back when they came.
		frames = s.giveBack(n, false)
		frames = s.c.credit(wire.Cost(len(as.pieces[len(as.pieces)-1].msg))) || frames
	} else {
		frames = s.giveBack(n, as.have > longMessage/2)
	}
	s.c.mu.Unlock()
	if frames {
		s.c.w.Flush()
	}
	if !done {
		as.join(s) // while the pieces are in the CPU's cache
	}
	s.c.mu.Lock()
	return done, !done
}

// joinRoom is how many times a message's length there must be room for in the budget
// to hold a buffer for it beside its pieces: they must not fail for the buffer.
const joinRoom = 4

// join copies the pieces into the buffer for the whole message, if the budget has
// plenty of room for that; if not they are kept until the last has come.
func (as *assembling) join(s *stream) {
	if as.buf == nil {
		if !s.c.share.hold(as.total, joinRoom) {
			return
		}
		as.buf = buf.Pool.Get(int(as.total))
	}
	as.copyPieces(s)
}

func (as *assembling) copyPieces(s *stream) {
	for _, seg := range as.pieces {
		as.at += copy((*as.buf)[as.at:], seg.msg)
	}
	s.free(as.pieces)
	clear(as.pieces)
	as.pieces = as.pieces[:0]
}

// finish returns the message. It unlocks mu.
func (as *assembling) finish(s *stream) (message, error) {
	s.c.mu.Unlock()
	if as.buf != nil {
		s.c.share.free(as.total)
	} else {
		as.buf = buf.Pool.Get(int(as.total))
	}
	as.copyPieces(s)
	return message{data: *as.buf, own: as.buf}, nil
}

// abort gives up and returns err. It unlocks mu.
func (as *assembling) abort(s *stream, err error) (message, error) {
	s.unreserve()
	s.c.mu.Unlock()
	s.free(as.pieces)
	if as.buf != nil {
		s.c.share.free(as.total)
		buf.Pool.Put(as.buf)
	}
	return message{}, err
}

// pop takes the first k segments off the queue.
func (s *stream) pop(k int) {
	n := copy(s.queue, s.queue[k:])
	clear(s.queue[n:])
	s.queue = s.queue[:n]
}

// giveBack gives the stream's credit for n bytes back, if it is time for that or
// now says so, and reports whether it has appended a frame. mu is held.
func (s *stream) giveBack(n int64, now bool) bool {
	if s.remoteClosed {
		return false
	}
	k := s.recv.Consume(n)
	if k == 0 && now {
		k = s.recv.Early()
	}
	return s.c.appendCredit(s.id, k)
}

// decode decodes m into v and frees it.
func (m *message) decode(cd *callCodec, v any) error {
	bm, ok := v.(BytesMessage)
	if !ok && cd.v2 == nil {
		pm, err := protoMessage(v)
		if err == nil {
			err = proto.Unmarshal(m.data, pm)
		}
		buf.Pool.Put(m.own)
		return err
	}
	if m.own == nil || len(m.data) > 0 && &m.data[0] != &(*m.own)[0] {
		// The pool could not use what begins within a buffer again.
		own := buf.Pool.Copy(m.data)
		buf.Pool.Put(m.own)
		m.own = own
	} else {
		*m.own = m.data
	}
	b := mem.NewBuffer(m.own, &buf.Pool)
	defer b.Free()
	if cd.v2 != nil {
		return cd.v2.Unmarshal(mem.BufferSlice{b}, v)
	}
	return bm.UnmarshalBytes(b)
}

// drop frees m undecoded.
func (m *message) drop() { buf.Pool.Put(m.own) }
