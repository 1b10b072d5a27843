package process

import (
	"encoding/hex"
	"math"
	"strings"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// The output streams of a session, as indexes.
const (
	stdout = iota
	stderr
	outputs
)

// streamNames are the output streams' numbers on the wire.
var streamNames = [outputs]guestv1.Stream{guestv1.Stream_STREAM_STDOUT, guestv1.Stream_STREAM_STDERR}

// sessionID is the id that the client made.
type sessionID [16]byte

// parseSessionID is the reverse of String.
func parseSessionID(s string) (id sessionID, ok bool) {
	text, ok := strings.CutPrefix(s, "s")
	if !ok || len(text) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(text))
	return id, err == nil
}

// String begins with a letter, so that an id is never taken for a pid.
func (id sessionID) String() string { return "s" + hex.EncodeToString(id[:]) }

// defaultRing is the size of a ring, and of a reader's window, that nobody has
// set.
const defaultRing = 1 << 20

// maxPiece is how much one Output carries at most.
const maxPiece = largeChunk

// state decides which byte goes to whom. It has no goroutine, clock or I/O of
// its own: the session calls it under its lock and acts on the answers.
type state struct {
	out     [outputs]output
	in      input
	policy  guestv1.OwnerGone
	owner   *reader // nil: none is attached
	former  string  // the client that was last taken over from
	readers map[*reader]bool
	exit    *guestv1.Exit // set once, when both streams have ended
}

// output is one output stream.
type output struct {
	ring
	acked uint64 // the owner has consumed all before
	drop  bool   // a full ring drops its oldest bytes
	eof   bool   // nothing is written any more
	none  bool   // the session has no such stream, on a terminal
}

// reader is one attached client, as owner or observer.
type reader struct {
	client   string // what it calls itself, or empty
	out      [outputs]cursor
	turn     int    // the stream whose turn it is
	told     uint64 // the limit of stdin that it was told of
	toldEOF  bool
	silent   bool // it acknowledges nothing more: what is sent is consumed
	exitSent bool
	evicted  *fault        // why it must go
	wake     chan struct{} // has a buffer of one; the session signals it
}

// cursor is where a reader is in a stream.
type cursor struct {
	next     uint64 // the next byte to send
	lost     uint64 // bytes before next that were dropped, and it was not told
	consumed uint64
	limit    uint64 // the first byte that may not be sent yet
	urged    uint64 // up to here the reader was asked to acknowledge
	ended    bool   // the end was sent
}

// at is the end of what the reader knows of.
func (c *cursor) at() uint64 { return c.next - c.lost }

// piece is what a reader gets next. Exactly one of the pointers is set.
type piece struct {
	output *guestv1.Output
	flow   *guestv1.FlowControl
	exit   *guestv1.Exit
	fault  *fault

	// What output.Data points into; release gives it up.
	stream int
	chunk  *chunk
}

func newState(mem purse, ring uint64, drop bool, policy guestv1.OwnerGone) *state {
	s := &state{policy: policy, readers: make(map[*reader]bool)}
	for i := range s.out {
		s.out[i].mem, s.out[i].max, s.out[i].drop = mem, ring, drop
	}
	return s
}

// room returns how much the ring takes before the process has to wait.
func (o *output) room() uint64 {
	switch {
	case o.drop:
		return math.MaxUint64
	case o.end-o.acked >= o.max:
		return 0
	}
	return o.max - (o.end - o.acked)
}

// short reports whether the process has to wait, or soon may, for an
// acknowledgement.
func (o *output) short() bool {
	return !o.drop && (4*o.room() < o.max || o.needsMemory())
}

// history returns how much of what is acknowledged the ring may keep, for who
// looks at it later: as far as it reaches. Of a stream in bulk that is little,
// since memory is quicker that was used just before, and it is nothing while
// half of all memory is in use, so that no history is in anybody's way.
func (o *output) history() uint64 {
	switch {
	case o.mem.scarce():
		return 0
	case o.large:
		return largeChunk
	}
	return o.max
}

// reserve returns memory for the stream's next bytes, or nil: the process has
// to wait for an acknowledgement, or for memory. Forced, memory is no reason.
func (s *state) reserve(stream int, force bool) []byte {
	o := &s.out[stream]
	if o.needsMemory() {
		o.dropTo(o.acked)
	}
	buf := o.reserve(o.room(), force)
	for buf == nil && o.drop && o.writing == nil && o.dropChunk() {
		buf = o.reserve(o.room(), force)
	}
	return buf
}

// hasRoom reports whether reserve would return memory, as far as can be said
// without taking it: other sessions may be quicker.
func (s *state) hasRoom(stream int) bool {
	o := &s.out[stream]
	if o.needsMemory() {
		o.dropTo(o.acked)
	}
	return o.room() > 0 && (o.drop || !o.needsMemory())
}

// end says that nothing more will be written to the stream.
func (s *state) end(stream int) { s.out[stream].eof = true }

// abandon drops what the stream holds, read or not: its owner wants no more.
func (s *state) abandon(stream int) {
	o := &s.out[stream]
	o.acked = o.end
	o.dropTo(o.end)
}

// attach adds a reader, or says why it may not be. The reader that it takes
// ownership from, if any, is marked as evicted.
func (s *state) attach(open *guestv1.Open) (*reader, *fault) {
	wanted := [outputs]uint64{open.StdoutOffset, open.StderrOffset}
	window := open.Window
	if window == 0 {
		window = defaultRing
	}
	r := &reader{client: string(open.ClientId), wake: make(chan struct{}, 1)}
	for i := range s.out {
		o, c := &s.out[i], &r.out[i]
		switch {
		case open.FromOldest && open.Role != guestv1.Role_ROLE_OBSERVER:
			c.next = o.acked
		case open.FromOldest:
			c.next = o.first
		case open.TailBytes != nil:
			c.next = o.end - min(o.end, *open.TailBytes)
		case wanted[i] > o.end:
			return nil, offsetAhead(streamNames[i], wanted[i], o.end)
		default:
			c.next = wanted[i]
		}
		c.next = max(c.next, o.first)
		c.consumed = c.next
		c.limit = addCapped(c.consumed, window)
		c.ended = o.none
	}
	if open.Role != guestv1.Role_ROLE_OBSERVER {
		if s.owner != nil {
			if f := s.replace(r.client, open.TakeOver); f != nil {
				return nil, f
			}
		}
		s.owner = r
		for i := range s.out {
			// Also where that takes back an acknowledgement: what the owner
			// still gets must not be dropped under it.
			s.out[i].acked = r.out[i].next
		}
	}
	s.readers[r] = true
	s.free()
	r.told, r.toldEOF = s.in.limit(), s.in.eof
	return r, nil
}

// replace makes room for a client that wants to be the owner in place of the one
// that is, or says why it may not. A client that comes back takes its own place.
func (s *state) replace(client string, takeOver bool) *fault {
	known := client != ""
	switch {
	case known && client == s.owner.client:
	case known && client == s.former:
		return takenOver()
	case !takeOver:
		return ownerPresent()
	default:
		s.former = s.owner.client
	}
	s.owner.evicted = takenOver()
	return nil
}

// goneAction is what follows when a reader is gone.
type goneAction int

const (
	goneNothing  goneAction = iota
	goneGrace               // end the session unless an owner comes in time
	goneEnd                 // end the session now
	goneConsumed            // forget the session: its exit is acknowledged
)

// detach removes a reader. leave is what it said before it went, or nil if it
// was cut off.
func (s *state) detach(r *reader, leave *guestv1.Leave) goneAction {
	delete(s.readers, r)
	owned := s.owner == r
	if owned {
		s.owner = nil
	}
	s.free()
	switch {
	case !owned:
		return goneNothing
	case s.exit != nil && r.exitSent && leave != nil:
		return goneConsumed
	case s.exit != nil:
		return goneNothing
	case leave != nil && leave.Keep:
		return goneNothing
	case leave != nil:
		return goneEnd
	case s.policy == guestv1.OwnerGone_OWNER_GONE_KILL:
		return goneGrace
	}
	return goneNothing
}

// acknowledge takes a reader's flow control of an output stream.
func (s *state) acknowledge(r *reader, stream int, consumed, window uint64) *fault {
	c := &r.out[stream]
	if consumed > c.at() {
		return offsetAhead(streamNames[stream], consumed, c.at())
	}
	if consumed < c.consumed {
		return nil // overtaken by a later one
	}
	c.consumed, c.limit = consumed, addCapped(consumed, window)
	s.free()
	return nil
}

// halfClose says that the reader will acknowledge nothing more.
func (s *state) halfClose(r *reader) {
	r.silent = true
	for i := range r.out {
		c := &r.out[i]
		c.consumed, c.limit = c.at(), math.MaxUint64
	}
	s.free()
}

// free drops what the owner has consumed and no observer still wants, but for
// the history.
func (s *state) free() {
	for i := range s.out {
		o := &s.out[i]
		if s.owner != nil {
			o.acked = max(o.acked, s.owner.out[i].consumed)
		}
		upTo := o.acked
		for r := range s.readers {
			upTo = min(upTo, r.out[i].next)
		}
		o.dropTo(upTo - min(upTo, o.history()))
	}
}

// next returns what the reader gets next, or false if it has to wait. A piece
// of output must be released.
func (s *state) next(r *reader) (piece, bool) {
	if r.evicted != nil {
		return piece{fault: r.evicted}, true
	}
	if s.owner == r {
		if flow := s.in.due(r); flow != nil {
			return piece{flow: flow}, true
		}
	}
	for range outputs {
		i := r.turn
		r.turn = (r.turn + 1) % outputs
		if p, ok := s.nextOutput(r, i); ok {
			return p, true
		}
	}
	if s.exit != nil && !r.exitSent && r.out[stdout].ended && r.out[stderr].ended {
		r.exitSent = true
		return piece{exit: s.exit}, true
	}
	return piece{}, false
}

func (s *state) nextOutput(r *reader, i int) (piece, bool) {
	o, c := &s.out[i], &r.out[i]
	if c.ended {
		return piece{}, false
	}
	if c.next < o.first {
		c.lost += o.first - c.next
		c.next = o.first
	}
	p := piece{stream: i, output: &guestv1.Output{Stream: streamNames[i], Offset: c.next, Lost: c.lost}}
	credit := c.limit - min(c.limit, c.at())
	urge := s.owner == r && o.short() && !r.silent
	switch {
	case c.next < o.end && credit > 0:
		p.output.Data, p.chunk = o.at(c.next, min(credit, maxPiece))
		c.next += uint64(len(p.output.Data))
	case c.next == o.end && o.eof:
	case !urge || c.lost > 0 || max(c.consumed, c.urged) >= c.next:
		return piece{}, false
	}
	if urge {
		p.output.Acknowledge, c.urged = true, c.next
	}
	// What was lost takes no credit.
	c.limit = addCapped(c.limit, c.lost)
	c.lost = 0
	if o.eof && c.next == o.end {
		p.output.Eof, c.ended = true, true
	}
	return p, true
}

// release gives up a piece after it was sent.
func (s *state) release(r *reader, p piece) {
	if p.chunk != nil {
		s.out[p.stream].unpin(p.chunk)
	}
	if r.silent && p.output != nil {
		s.halfClose(r)
	} else if p.output != nil && s.owner != r {
		s.free() // an observer has moved on
	}
}

// dropAll gives up all memory: the session is forgotten and has no reader.
func (s *state) dropAll() {
	for i := range s.out {
		s.out[i].dropTo(math.MaxUint64)
	}
	s.in.discard()
}

// addCapped is a+b, or the largest number if that is beyond it.
func addCapped(a, b uint64) uint64 {
	if a+b < a {
		return math.MaxUint64
	}
	return a + b
}
