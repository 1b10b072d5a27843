package rpc

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A turn is a unary handler running on the goroutine that reads its connection.
// That is the quickest way to run it, as long as it is quick. A timer, which runs
// only while turns are taken, and the writer before it sleeps have a new goroutine go on
// reading where a handler is still at work.
type turn struct {
	seq atomic.Uint64 // odd while a handler runs

	mu      sync.Mutex // held while a turn is taken over
	cur     *serverStream
	watched atomic.Bool // by turns
	seen    uint64
	still   int
}

// turnTick is how often turns are looked at. A handler that runs just then is taken
// over from, whether it has been at it for long or not, so that a slow one delays the
// other calls of its connection by one tick at most, and what the scheduler adds. For a
// quick one that costs a goroutine, once in many calls.
const turnTick = 500 * time.Microsecond

// begin starts a turn of ss.
func (t *turn) begin(ss *serverStream) {
	t.cur = ss
	if n := len(ss.sc.ran); n == 0 || ss.sc.ran[n-1] != ss.m {
		ss.sc.ran = append(ss.sc.ran, ss.m)
	}
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

// look takes over from a handler that runs. It reports whether to look again: not
// once there was none for a while.
func (sc *serverConn) look() bool {
	t := &sc.turn
	seq := t.seq.Load()
	if seq%2 == 1 {
		sc.takeOver(seq)
	}
	if seq != t.seen {
		t.seen, t.still = seq, 0
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
	t.cur.m.pace.slow() // until it proves to be quick
	t.cur.takenOver = time.Now()
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

const (
	// threadLook is how often it is looked for a handler that has left this goroutine
	// locked to its thread. Calls that come less often than that are all looked at.
	threadLook = time.Millisecond
	// threadMost is for how many changes of the method it is put off.
	threadMost = 64
)

// leaveThread looks, after a batch with turns, whether one of their handlers has left
// this goroutine locked to its thread, as runtime.LockOSThread says, and if so reads on
// elsewhere: the caller must return, so that the thread ends with its goroutine. The
// methods get no turn any more.
func (sc *serverConn) leaveThread() bool {
	if len(sc.ran) == 0 {
		return false
	}
	if now := time.Now(); now.Sub(sc.looked) >= threadLook {
		sc.looked = now
	} else if len(sc.ran) < threadMost {
		return false
	}
	locked := lockedToThread()
	if locked {
		for _, m := range sc.ran {
			sc.srv.keepsThread(m)
		}
	}
	clear(sc.ran)
	sc.ran = sc.ran[:0]
	if locked {
		sc.continueElsewhere()
	}
	return locked
}

// keepsThread records that the handler of m leaves its goroutine locked.
func (s *Server) keepsThread(m *method) {
	if m.pace.apart.CompareAndSwap(false, true) {
		s.log.Warn("rpc: a handler left its goroutine locked to its thread: the goroutine ends, and the method's handlers run apart from now on", "method", m.name)
	}
}

// lockedToThread reports whether the calling goroutine is locked to its thread. What
// runtime.Stack says of it is the one public sign of that. It takes 1 µs near the
// beginning of a goroutine's stack.
func lockedToThread() bool {
	var b [64]byte
	line, _, _ := bytes.Cut(b[:runtime.Stack(b[:], false)], []byte("\n"))
	return bytes.Contains(line, []byte("locked to thread"))
}

// continueElsewhere reads on with a new goroutine, while the memory of the frame
// at hand stays with the caller.
func (sc *serverConn) continueElsewhere() {
	sc.rd = sc.rd.Split()
	go sc.readLoop()
}
