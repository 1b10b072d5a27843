package guest

import (
	"sync"
	"time"
)

// deadline is a time that may be set again, before and after it has passed.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{} // closed when the time has passed
}

func makeDeadline() deadline { return deadline{done: make(chan struct{})} }

// passed returns a channel that is closed once the deadline has passed.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

// set sets the deadline; the zero time is none.
func (d *deadline) set(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.done // the timer's function closes it
	}
	d.timer = nil
	passed := false
	select {
	case <-d.done:
		passed = true
	default:
	}
	wait := time.Until(at)
	switch {
	case at.IsZero() || wait > 0:
		if passed {
			d.done = make(chan struct{})
		}
		if !at.IsZero() {
			done := d.done
			d.timer = time.AfterFunc(wait, func() { close(done) })
		}
	case !passed:
		close(d.done)
	}
}
