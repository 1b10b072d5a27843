package rpc

import (
	"bytes"
	"runtime"
	"time"
)

// A handler may return with runtime.LockOSThread on, most often because it has changed
// its thread. On a goroutine of its own that ends the thread. On the goroutine that
// reads a connection the calls that follow would run on the changed thread, so that
// goroutine is ended as well, and the method's handlers run apart from then on.

const (
	// lockCheckShare bounds what the check costs: one that took so long is followed
	// by none for as many times that long, and lockCheckTime at most. Calls that come
	// less often are all checked.
	lockCheckShare = 100
	lockCheckTime  = time.Millisecond
	// lockCheckMost is for how many changes of the method it is put off at most.
	lockCheckMost = 64
)

// lockCheck spaces the checks of one connection. It belongs to the goroutine that reads.
type lockCheck struct {
	last time.Time
	took time.Duration
}

// due reports whether to check now.
func (l *lockCheck) due() bool {
	return l.last.IsZero() || time.Since(l.last) >= min(lockCheckShare*l.took, lockCheckTime)
}

// run checks.
func (l *lockCheck) run() bool {
	start := time.Now()
	locked := lockedToThread()
	l.last = time.Now()
	l.took = l.last.Sub(start)
	return locked
}

// quitLockedThread looks, after a read whose handlers ran inline, whether one of them
// has left this goroutine locked to its thread. If so it reads on with a new goroutine,
// and the caller must return.
func (sc *serverConn) quitLockedThread() bool {
	if len(sc.ran) == 0 || len(sc.ran) < lockCheckMost && !sc.locks.due() {
		return false
	}
	locked := sc.locks.run()
	if locked {
		for _, m := range sc.ran {
			sc.srv.runApart(m)
		}
	}
	clear(sc.ran)
	sc.ran = sc.ran[:0]
	if locked {
		sc.readElsewhere()
	}
	return locked
}

// runApart records that the handler of m leaves its goroutine locked.
func (s *Server) runApart(m *method) {
	if m.pace.apart.CompareAndSwap(false, true) {
		s.log.Warn("rpc: a handler left its goroutine locked to its thread: the goroutine ends, and the method's handlers run apart from now on", "method", m.name)
	}
}

// lockedToThread reports whether the calling goroutine is locked to its thread. What
// runtime.Stack says of it is the one public sign of that. It takes some microseconds.
func lockedToThread() bool {
	var b [64]byte
	line, _, _ := bytes.Cut(b[:runtime.Stack(b[:], false)], []byte("\n"))
	return bytes.Contains(line, []byte("locked to thread"))
}
