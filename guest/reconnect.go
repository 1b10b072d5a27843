package guest

import (
	"context"
	"time"
)

// Times between the attempts to reconnect.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Second
)

// reconnector spaces the attempts to reconnect, and ends them when a loss has
// lasted for limit. The zero value never waits. It is not safe for concurrent use.
type reconnector struct {
	limit  time.Duration
	lostAt time.Time // zero: not lost
	delay  time.Duration
}

// connected notes that the connection is there again, or was of use: the limit and the
// delay begin anew.
func (r *reconnector) connected() { r.lostAt, r.delay = time.Time{}, 0 }

// reached notes that the connection was there and of no use: the limit alone begins
// anew, so that one which is lost each time at once is not tried ever faster.
func (r *reconnector) reached() { r.lostAt = time.Time{} }

// left returns how much of the limit is left.
func (r *reconnector) left() time.Duration {
	if r.lostAt.IsZero() {
		return r.limit
	}
	return r.limit - time.Since(r.lostAt)
}

// next returns how long to wait before the next attempt, and whether there is to be
// one.
func (r *reconnector) next() (time.Duration, bool) {
	if r.lostAt.IsZero() {
		r.lostAt = time.Now()
	}
	r.delay = min(max(2*r.delay, firstRetry), lastRetry)
	return r.delay, time.Since(r.lostAt)+r.delay <= r.limit
}

// wait waits for the next attempt, and reports whether there is to be one: there is
// none once ctx is done or closed is closed.
func (r *reconnector) wait(ctx context.Context, closed <-chan struct{}) bool {
	delay, ok := r.next()
	return ok && pause(ctx, closed, delay)
}

// pause waits, and reports whether neither ctx is done nor closed is closed.
func pause(ctx context.Context, closed <-chan struct{}, delay time.Duration) bool {
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-closed:
	}
	return false
}
