package rpc

import (
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

	mu      sync.Mutex // held while a turn is taken over
	cur     *serverStream
	watched atomic.Bool // by turns
	seen    uint64
	still   int
}

// turnTick is how often a running turn is looked at. One that is seen twice has
// taken too long.
const turnTick = 2 * time.Millisecond

// begin starts a turn of ss.
func (t *turn) begin(ss *serverStream) {
	t.cur = ss
	ss.inline = t.seq.Add(1)
	if !t.watched.Load() {
		t.watched.Store(true)
		ss.sc.srv.turns.watch(ss.sc)
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

// stillTicks is for how many ticks in a row a connection without turns is watched.
const stillTicks = 8

// look sees whether a handler has run since the last time. It reports whether to
// look again.
func (sc *serverConn) look() bool {
	t := &sc.turn
	seq := t.seq.Load()
	if seq != t.seen {
		t.seen, t.still = seq, 0
		return true
	}
	if seq%2 == 1 {
		sc.takeOver(seq)
		return true
	}
	select {
	case <-sc.closed:
	default:
		if t.still++; t.still <= stillTicks {
			return true
		}
	}
	t.still = 0
	t.watched.Store(false)
	// A turn that began before that has not asked to be watched.
	return t.seq.Load() != seq && t.watched.CompareAndSwap(false, true)
}

// turns looks at the connections of a server on which turns are taken. It has one
// timer for all: to start one for each would wake a thread of the process with each
// connection.
type turns struct {
	mu    sync.Mutex
	conns []*serverConn
	armed bool
	timer *time.Timer
}

// watch looks at sc from now on.
func (w *turns) watch(sc *serverConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, sc)
	if w.armed {
		return
	}
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(turnTick, w.tick)
		return
	}
	w.timer.Reset(turnTick)
}

// tick looks at all connections.
func (w *turns) tick() {
	w.mu.Lock()
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	kept := conns[:0]
	for _, sc := range conns {
		if sc.look() {
			kept = append(kept, sc)
		}
	}
	clear(conns[len(kept):])
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(kept, w.conns...)
	if w.armed = len(w.conns) > 0; w.armed {
		w.timer.Reset(turnTick)
	}
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
		if ss.charged = callCost; sc.share.b != nil {
			sc.share.add(callCost)
		}
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
