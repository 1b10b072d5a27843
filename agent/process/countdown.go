package process

import (
	"sync"
	"time"
)

// countdownSteps is into how many parts a countdown divides its time.
const countdownSteps = 20

// countdown calls a function after a time in which the guest runs. A guest that
// is paused, or restored from a snapshot, may find that its monotonic clock has
// gone on meanwhile (it does where the clock source is the TSC), and an ordinary
// timer would fire at once, before the client that was cut off by the same
// pause could come back. A countdown runs in steps, so that a pause of any
// length uses up one of them at most.
type countdown struct {
	step time.Duration
	f    func()

	mu    sync.Mutex
	left  int // 0: stopped, or over
	timer *time.Timer
}

// startCountdown calls f in a goroutine of its own after d, unless stopped.
func startCountdown(d time.Duration, f func()) *countdown {
	c := &countdown{step: max(d/countdownSteps, time.Nanosecond), f: f, left: countdownSteps}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(c.step, c.tick)
	return c
}

func (c *countdown) tick() {
	c.mu.Lock()
	if c.left == 0 {
		c.mu.Unlock()
		return
	}
	c.left--
	over := c.left == 0
	if !over {
		c.timer.Reset(c.step)
	}
	c.mu.Unlock()
	if over {
		c.f()
	}
}

// stop ends the countdown, if there is one. A call of f that has begun goes on.
func (c *countdown) stop() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = 0
	c.timer.Stop()
}
