package rpc

import (
	"sync"
	"sync/atomic"
	"time"
)

// inlineRun is a unary handler running on the goroutine that reads its connection.
// That is the quickest way to run a handler that is quick. One that is still at work
// when a timer looks, or before the writer sleeps, is taken over from: a new goroutine
// goes on reading, and the old one ends after the handler. The zero value is ready to
// use.
type inlineRun struct {
	seq atomic.Uint64 // odd while a handler runs

	mu      sync.Mutex // held by takeOver
	cur     *serverStream
	watched atomic.Bool // by the server's inlineWatch
	seen    uint64      // of the watch: seq when it last looked
	still   int         // of the watch: looks in a row without a handler
}

// inlineTick is how often running handlers are looked for. One that is found is taken
// over from, however long it has been at work, so that a slow one delays the other calls
// of its connection by one tick at most, and what the scheduler adds. For a quick one
// that costs a goroutine, once in many calls.
const inlineTick = 500 * time.Microsecond

// begin is called before the handler of ss runs.
func (r *inlineRun) begin(ss *serverStream) {
	r.cur = ss
	if n := len(ss.sc.ran); n == 0 || ss.sc.ran[n-1] != ss.m {
		ss.sc.ran = append(ss.sc.ran, ss.m)
	}
	ss.inline = r.seq.Add(1)
	if !r.watched.Load() {
		r.watched.Store(true)
		ss.sc.srv.inlineWatch.watch(ss.sc)
	}
}

// end is called when the handler of ss has returned. It reports whether the caller goes
// on reading: not if ss did not run inline or was taken over from.
func (r *inlineRun) end(ss *serverStream) bool {
	if ss.inline == 0 {
		return false
	}
	if r.seq.CompareAndSwap(ss.inline, ss.inline+1) {
		return true
	}
	r.mu.Lock() // wait until takeOver has what it needs
	defer r.mu.Unlock()
	return false
}

// takeOver goes on reading with a new goroutine, if run seq is still at work.
func (sc *serverConn) takeOver(seq uint64) {
	r := &sc.inline
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.seq.CompareAndSwap(seq, seq+1) {
		return
	}
	r.cur.m.pace.slow() // until it proves to be quick
	r.cur.takenOverAt = time.Now()
	sc.mu.Lock()
	ss := r.cur
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
	sc.readElsewhere()
}

// readElsewhere goes on reading with a new goroutine. The memory of the frame at hand
// stays with the caller.
func (sc *serverConn) readElsewhere() {
	sc.rd = sc.rd.Split()
	go sc.readLoop()
}

// inlineWatch looks for running handlers on the connections of a server that run some
// inline. It has one timer for all connections: to start one for each would wake a
// thread of the process each time.
type inlineWatch struct {
	mu    sync.Mutex
	conns []*serverConn
	armed bool
	timer *time.Timer
}

// watch looks at sc from now on.
func (w *inlineWatch) watch(sc *serverConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, sc)
	if w.armed {
		return
	}
	w.armed = true
	if w.timer == nil {
		w.timer = time.AfterFunc(inlineTick, w.tick)
		return
	}
	w.timer.Reset(inlineTick)
}

// tick looks at all connections.
func (w *inlineWatch) tick() {
	w.mu.Lock()
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	kept := conns[:0]
	for _, sc := range conns {
		if sc.lookInline() {
			kept = append(kept, sc)
		}
	}
	clear(conns[len(kept):])
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(kept, w.conns...)
	if w.armed = len(w.conns) > 0; w.armed {
		w.timer.Reset(inlineTick)
	}
}

// stillTicks is for how many ticks in a row a connection is watched although it runs no
// handler inline.
const stillTicks = 8

// lookInline takes over from a handler that runs inline. It reports whether to look
// again.
func (sc *serverConn) lookInline() bool {
	r := &sc.inline
	seq := r.seq.Load()
	if seq%2 == 1 {
		sc.takeOver(seq)
	}
	if seq != r.seen {
		r.seen, r.still = seq, 0
		return true
	}
	select {
	case <-sc.closed:
	default:
		if r.still++; r.still <= stillTicks {
			return true
		}
	}
	r.still = 0
	r.watched.Store(false)
	// A run that began before that has not asked to be watched.
	return r.seq.Load() != seq && r.watched.CompareAndSwap(false, true)
}
