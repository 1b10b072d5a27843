package rpc

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A turn is a unary handler running on the goroutine that reads its connection.
// That is the quickest way to run it, as long as it is quick. One that is not is
// found out by a timer that looks only while turns are taken, and by the writer
// before it sleeps; then a new goroutine goes on reading.
type turn struct {
	seq atomic.Uint64 // odd while a handler runs

	mu    sync.Mutex // held while a turn is taken over
	cur   *serverStream
	armed atomic.Bool
	seen  uint64
	still int
	timer *time.Timer
}

// turnTick is how often a running turn is looked at. One that is seen twice has
// taken too long.
const turnTick = 2 * time.Millisecond

// begin starts a turn of ss.
func (t *turn) begin(ss *serverStream) {
	t.cur = ss
	ss.inline = t.seq.Add(1)
	if !t.armed.Load() {
		t.armed.Store(true)
		if t.timer == nil {
			// watch uses timer, so that must be set before it can run.
			t.timer = time.AfterFunc(math.MaxInt64, ss.sc.watch)
		}
		t.timer.Reset(turnTick)
	}
}

// end ends the turn of ss. It reports false if there was none, or it was taken
// over: then another goroutine reads.
func (t *turn) end(ss *serverStream) bool {
	if ss.inline == 0 {
		return false
	}
	if t.seq.CompareAndSwap(ss.inline, ss.inline+1) {
		return true
	}
	t.mu.Lock() // wait until who took over has what it needs
	defer t.mu.Unlock()
	return false
}

// watch looks whether a handler has run since the last time it looked.
func (sc *serverConn) watch() {
	t := &sc.turn
	seq := t.seq.Load()
	if seq == t.seen {
		if seq%2 == 1 {
			sc.takeOver(seq)
		} else if t.still++; t.still > 8 {
			t.still = 0
			t.armed.Store(false)
			// A turn that began before that has not armed the timer.
			if t.seq.Load() != seq && t.armed.CompareAndSwap(false, true) {
				t.timer.Reset(turnTick)
			}
			return
		}
	} else {
		t.seen, t.still = seq, 0
	}
	t.timer.Reset(turnTick)
}

// takeOver ends turn seq, if it is still going on, and reads on elsewhere.
func (sc *serverConn) takeOver(seq uint64) {
	t := &sc.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.seq.CompareAndSwap(seq, seq+1) {
		return
	}
	t.cur.m.pace.slow()
	sc.mu.Lock()
	ss := t.cur
	if sc.err == nil {
		sc.streams[ss.id] = &ss.stream
	}
	lost := sc.err
	sc.mu.Unlock()
	if lost != nil {
		ss.ctx.cancel(errCanceled)
	}
	sc.continueElsewhere()
}

// continueElsewhere reads on with a new goroutine, while the memory of the frame
// at hand stays with the caller.
func (sc *serverConn) continueElsewhere() {
	sc.rd = sc.rd.split()
	go sc.readLoop()
}
