package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// An attempt to connect is the context of its dialing. It has one timer, for the time
// that dialing may take and then for handing back the reading of the connection (see
// leading): to start a timer wakes a thread of the process, which a new connection's
// first answer would have to wait for.
type attempt struct {
	context.Context // ends with the client
	cancel          context.CancelFunc
	deadline        time.Time
	timer           *time.Timer
	late            atomic.Bool

	mu     sync.Mutex
	ticked bool
	cc     *clientConn // that has come of it
}

func newAttempt(parent context.Context, timeout time.Duration) *attempt {
	a := &attempt{deadline: time.Now().Add(timeout)}
	a.Context, a.cancel = context.WithCancel(parent)
	a.mu.Lock()
	a.timer = time.AfterFunc(min(timeout, clientUnread), a.tick)
	a.mu.Unlock()
	return a
}

// Deadline implements context.Context.
func (a *attempt) Deadline() (time.Time, bool) { return a.deadline, true }

// Err implements context.Context.
func (a *attempt) Err() error {
	if a.late.Load() {
		return context.DeadlineExceeded
	}
	return a.Context.Err()
}

// tick is called by the timer.
func (a *attempt) tick() {
	a.mu.Lock()
	a.ticked = true
	cc := a.cc
	if left := time.Until(a.deadline); cc == nil && left > 0 {
		a.timer.Reset(left)
	} else if cc == nil {
		a.late.Store(true)
		a.cancel()
	}
	a.mu.Unlock()
	if cc != nil {
		cc.tick()
	}
}

// explain returns err, with which dialing has failed. A context that dial has made
// of its own says that it was cancelled when it was late.
func (a *attempt) explain(err error) error {
	if a.late.Load() && errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %v", context.DeadlineExceeded, err)
	}
	return err
}

// leave leaves the timer to cc. It reports whether it still runs for the first time,
// until handBack is over.
func (a *attempt) leave(cc *clientConn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cc = cc
	return !a.ticked
}
