package rpc

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

const (
	// maxPending is how much may wait for the socket before those who send
	// messages wait too.
	maxPending = 256 << 10
	// maxControlPending is how much may wait for the socket because the peer asked
	// for it, in answers that cannot be held back.
	maxControlPending = 1 << 20
	// fullBatch is worth a write of its own: a vsock packet.
	fullBatch = 64 << 10
	// byReference is from when on a payload is not copied to be sent.
	byReference = 12 << 10
	// maxRounds is how many batches one sender writes for others.
	maxRounds = 8
)

// A writer sends frames in the order in which they were appended. There is no
// goroutine for it: who appends a frame also writes it, with all that others have
// appended in the meantime, unless somebody is writing already and takes it along.
type writer struct {
	c *conn

	mu     sync.Mutex
	state  writeRole
	pieces []piece // what waits
	bytes  int     // of it
	err    error   // why nothing can be sent any more
	room   bool    // somebody waits until less is pending
	// control counts the bytes that wait because the peer asked for them.
	control int

	// The batch that is being written; of whoever has the role of writing.
	batch batch
	// parked says that the one who writes sleeps until the socket has room, and
	// may be woken by a write deadline.
	parked    bool
	parkingFn func() // w.parking, made once
	kicked    bool   // somebody has asked for that since the batch was begun

	// The connection has ended, and who writes sends what waits, until dieAt, and then
	// closes it. Guarded by mu.
	closing bool
	dieAt   time.Time
}

// lastWordTime is how long the peer has to take the GOAWAY that says what it broke.
const lastWordTime = time.Second

type writeRole uint8

const (
	writeIdle      writeRole = iota
	writeScheduled           // a goroutine was started to write, and has not begun
	writeBusy
)

// piece is a part of what is to be written: frames that were copied together, or a
// payload that is sent by reference.
type piece struct {
	b   []byte
	own *[]byte // the pooled memory of b
	ref *ref
}

// A ref is a payload that is sent from its sender's memory, which must not change
// until it is done.
type ref struct {
	p    []byte
	s    *stream
	done bool // guarded by conn.mu
}

type batch struct {
	pieces []piece
	all    [][]byte // their bytes
	bufs   [][]byte // the part of all that is not written yet
}

// how says who writes a frame.
type how uint8

const (
	writeNow   how = iota // who appends it, or who is writing
	writeYield            // the same, but others get the chance to append theirs first
	writeSoon             // the sender has more: somebody else, or with the next
	writeLater            // who appended it says so with flush
)

// frameOut is a frame to append.
type frameOut struct {
	h    wire.Header
	head []byte // copied, with its length before it if wire.FlagHead is set
	msg  []byte // copied
	more []byte // copied, after msg
	ref  *ref   // not copied, after msg
}

// length returns the length of the frame's payload.
func (f *frameOut) length() int {
	n := len(f.msg) + len(f.more)
	if f.h.Flags&wire.FlagHead != 0 {
		n += uvarintLen(len(f.head)) + len(f.head)
	}
	if f.ref != nil {
		n += len(f.ref.p)
	}
	return n
}

func uvarintLen(n int) int {
	k := 1
	for ; n >= 0x80; n >>= 7 {
		k++
	}
	return k
}

// full reports whether who sends messages has to wait. mu is held.
func (w *writer) full() bool { return w.bytes > maxPending && w.err == nil }

// append adds f to what is to be written. mu is held, and conn.mu if there is a ref.
func (w *writer) append(f *frameOut) {
	if w.err != nil {
		if f.ref != nil {
			f.ref.done = true
		}
		return
	}
	f.h.Length = uint32(f.length())
	n := wire.HeaderLen + int(f.h.Length)
	if f.ref != nil {
		n -= len(f.ref.p)
	}
	last := w.grow(n)
	b := wire.AppendHeader(last.b, f.h)
	if f.h.Flags&wire.FlagHead != 0 {
		n := len(f.head)
		for ; n >= 0x80; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		b = append(b, byte(n))
		b = append(b, f.head...)
	}
	b = append(b, f.msg...)
	last.b = append(b, f.more...)
	if f.ref != nil {
		w.pieces = append(w.pieces, piece{b: f.ref.p, ref: f.ref})
	}
	w.bytes += wire.HeaderLen + int(f.h.Length)
}

// grow returns the last piece, with room for n more bytes.
func (w *writer) grow(n int) *piece {
	if k := len(w.pieces); k > 0 {
		if p := &w.pieces[k-1]; p.ref == nil && cap(p.b)-len(p.b) >= n {
			return p
		}
	}
	if len(w.pieces) > 0 || w.state != writeIdle {
		n = max(n, fullBatch) // more will come before this is written
	}
	own := buf.Pool.Get(n)
	w.pieces = append(w.pieces, piece{b: (*own)[:0:cap(*own)], own: own})
	return &w.pieces[len(w.pieces)-1]
}

// greet begins with what is sent first. Nobody else uses w yet.
func (w *writer) greet(h wire.Hello) {
	p := w.grow(0)
	p.b = wire.AppendPreface(p.b, h)
	w.bytes = len(p.b)
}

// appendControl appends a frame that the peer's own frames have called for, to be
// written later. It reports false if the peer makes more of them than it reads.
func (w *writer) appendControl(fn func(b []byte) []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return true
	}
	last := w.grow(wire.HeaderLen + 64)
	before := len(last.b)
	last.b = fn(last.b)
	n := len(last.b) - before
	w.bytes += n
	w.control += n
	return w.control <= maxControlPending
}

// start decides, after an append, whether the caller has to call run. mu is held.
func (w *writer) start(h how) bool {
	if w.state == writeBusy || w.err != nil || w.bytes == 0 {
		return false
	}
	if h == writeLater {
		return false
	}
	if w.c.raw == nil || h == writeSoon && w.bytes < fullBatch {
		if w.state == writeIdle {
			w.state = writeScheduled
			go w.scheduled()
		}
		return false
	}
	w.state = writeBusy
	return true
}

// scheduled writes what waits when it is its turn, after what comes meanwhile.
func (w *writer) scheduled() {
	if w.c.raw != nil {
		last := -1
		for range 16 {
			w.mu.Lock()
			n, mine := w.bytes, w.state == writeScheduled
			w.mu.Unlock()
			if !mine {
				return
			}
			if n == last || n >= fullBatch {
				break
			}
			last = n
			runtime.Gosched()
		}
	}
	w.mu.Lock()
	if w.state != writeScheduled {
		w.mu.Unlock()
		return
	}
	w.state = writeBusy
	w.mu.Unlock()
	w.run(untilIdle)
}

// flush writes what waits, without sleeping.
func (w *writer) flush() {
	w.mu.Lock()
	run := w.start(writeNow)
	w.mu.Unlock()
	if run {
		w.run(untilFull)
	}
}

// patience says how long somebody goes on writing.
type patience uint8

const (
	untilFull patience = iota // a few batches, while the socket has room
	whileMine                 // a few batches, sleeping when the socket is full
	untilIdle                 // to the end
)

// run writes batch after batch until nothing waits. The caller has got the role of
// writing from start; when its patience is at an end a new goroutine goes on.
func (w *writer) run(until patience) {
	park := until != untilFull
	for round := 0; ; round++ {
		if round > 0 && w.c.inFlight.Load() > 1 {
			runtime.Gosched() // more calls are at it, as it seems
		}
		w.mu.Lock()
		if !w.take() {
			closing := w.closing
			if !closing {
				w.state = writeIdle
			}
			w.mu.Unlock()
			if closing {
				_ = w.c.nc.Close()
			}
			return
		}
		w.mu.Unlock()
		if round == maxRounds && until != untilIdle {
			go w.resume()
			return
		}
		if !w.writeBatch(park) {
			return
		}
	}
}

// resume goes on with a batch that was begun.
func (w *writer) resume() {
	if w.writeBatch(true) {
		w.run(untilIdle)
	}
}

// take makes what waits the batch. mu is held.
func (w *writer) take() bool {
	if w.bytes == 0 || w.err != nil && !w.closing {
		return false
	}
	b := &w.batch
	b.pieces, w.pieces = w.pieces, b.pieces[:0]
	w.bytes, w.control = 0, 0
	b.all = b.all[:0]
	for _, p := range b.pieces {
		b.all = append(b.all, p.b)
	}
	b.bufs = b.all
	w.kicked = false
	return true
}

// writeBatch writes the batch. It reports false if the role of writing is no
// longer the caller's.
func (w *writer) writeBatch(park bool) bool {
	b := &w.batch
	var err error
	if w.c.raw == nil {
		for _, p := range b.bufs {
			if _, err = w.c.nc.Write(p); err != nil {
				break
			}
		}
	} else {
		for len(b.bufs) > 0 {
			var n int
			var again bool
			n, again, err = w.c.raw.writev(b.bufs, park, w.parkingFn)
			w.unpark()
			b.advance(n)
			if errors.Is(err, os.ErrDeadlineExceeded) && w.mayGoOn() {
				// Somebody whose payload is in the batch cannot wait any longer.
				w.detach()
				err = nil
				if len(b.bufs) > 0 {
					go w.resume()
					return false
				}
			}
			if err != nil {
				break
			}
			if again && len(b.bufs) > 0 {
				w.c.ensureReader()
				go w.resume()
				return false
			}
		}
	}
	w.finish(err)
	return true
}

// mayGoOn reports whether to go on after a write deadline has passed, and sets the
// next: none, or the one by which the connection closes.
func (w *writer) mayGoOn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing && !time.Now().Before(w.dieAt) {
		return false
	}
	_ = w.c.nc.SetWriteDeadline(w.dieAt)
	return true
}

// advance drops n written bytes.
func (b *batch) advance(n int) {
	for len(b.bufs) > 0 && n >= len(b.bufs[0]) {
		n -= len(b.bufs[0])
		b.bufs = b.bufs[1:]
	}
	if n > 0 {
		b.bufs[0] = b.bufs[0][n:]
	}
}

// parking is called before the one who writes sleeps.
func (w *writer) parking() {
	w.mu.Lock()
	w.parked = true
	if w.kicked {
		_ = w.c.nc.SetWriteDeadline(time.Unix(1, 0))
	}
	w.mu.Unlock()
	w.c.ensureReader()
}

func (w *writer) unpark() {
	w.mu.Lock()
	w.parked = false
	w.mu.Unlock()
}

// kick makes the one who sleeps with a batch copy the payloads in it, so that
// their senders need not wait until the socket has room.
func (w *writer) kick() {
	w.mu.Lock()
	if w.state == writeBusy {
		w.kicked = true
		if w.parked {
			_ = w.c.nc.SetWriteDeadline(time.Unix(1, 0))
		}
	}
	w.mu.Unlock()
}

// disown replaces the payload of r by a copy, if it waits and is not being written
// yet, and reports whether it did: then the writer does not know r any more.
func (w *writer) disown(r *ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.pieces {
		if p := &w.pieces[i]; p.ref == r {
			p.b, p.ref = append([]byte(nil), r.p...), &ref{}
			return true
		}
	}
	return false
}

// detach copies what is left of the batch.
func (w *writer) detach() {
	b := &w.batch
	var rest []byte
	for _, p := range b.bufs {
		rest = append(rest, p...)
	}
	w.release(b)
	b.pieces = append(b.pieces, piece{b: rest})
	b.all = append(b.all[:0], rest)
	b.bufs = b.all
}

// release lets go of the payloads and the memory of b.
func (w *writer) release(b *batch) {
	w.c.refsDone(b.pieces)
	for i := range b.pieces {
		buf.Pool.Put(b.pieces[i].own)
	}
	clear(b.pieces)
	b.pieces = b.pieces[:0]
}

// finish ends a batch.
func (w *writer) finish(err error) {
	w.release(&w.batch)
	clear(w.batch.all)
	w.batch.bufs = nil
	w.mu.Lock()
	room := w.room
	w.room = false
	w.mu.Unlock()
	if room {
		w.c.roomLeft()
	}
	if err != nil {
		w.c.fail(err)
	}
}

// close makes every later append do nothing and closes the connection, after bye if
// that is not nil: at once if there is room for it or, if somebody is writing, by that
// goroutine after what waits, within lastWordTime.
func (w *writer) close(err error, bye []byte) {
	nc := w.c.nc
	w.mu.Lock()
	w.err, w.room = err, false
	if bye != nil && w.state == writeBusy && nc.SetWriteDeadline(time.Now().Add(lastWordTime)) == nil {
		w.closing, w.dieAt = true, time.Now().Add(lastWordTime)
		w.pieces = append(w.pieces, piece{b: bye})
		w.bytes += len(bye)
		w.mu.Unlock()
		_ = nc.SetReadDeadline(time.Unix(1, 0)) // nobody reads any more
		return
	}
	idle := w.state != writeBusy
	pieces := w.pieces
	w.pieces, w.bytes, w.state = nil, 0, writeBusy
	w.mu.Unlock()
	var all [][]byte
	for _, p := range pieces {
		all = append(all, p.b)
	}
	switch all = append(all, bye); {
	case bye == nil || !idle:
		_ = nc.Close()
	case w.c.raw != nil:
		_, _, _ = w.c.raw.writev(all, false, nil)
		_ = nc.Close()
	default:
		_ = nc.SetReadDeadline(time.Unix(1, 0))
		go w.lastWords(all)
	}
	w.c.refsDone(pieces)
}

// lastWords writes all to a connection that has ended, and closes it.
func (w *writer) lastWords(all [][]byte) {
	nc := w.c.nc
	late := time.AfterFunc(lastWordTime, func() { _ = nc.Close() })
	for _, b := range all {
		if _, err := nc.Write(b); err != nil {
			break
		}
	}
	late.Stop()
	_ = nc.Close()
}
