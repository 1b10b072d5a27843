package process

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCountdown(t *testing.T) {
	for _, d := range []time.Duration{time.Nanosecond, time.Millisecond, 5 * time.Second, 100 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			over := make(chan time.Time, 1)
			startCountdown(d, func() { over <- time.Now() })
			took := (<-over).Sub(start)
			if took < d || took > d+countdownSteps {
				t.Errorf("a countdown of %v took %v", d, took)
			}
		})
	}
}

func TestCountdownStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		called := false
		c := startCountdown(time.Second, func() { called = true })
		time.Sleep(time.Second - time.Nanosecond)
		c.stop()
		c.stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		if called {
			t.Error("a stopped countdown went on")
		}
		var none *countdown
		none.stop()
	})
}

// A clock that jumps lets the timer of one step fire early, however far it
// jumps: the steps that were not begun are still to come.
func TestCountdownOutlastsAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan time.Time, 1)
		start := time.Now()
		c := startCountdown(20*time.Second, func() { over <- time.Now() })
		time.Sleep(1500 * time.Millisecond)
		c.tick() // what a timer does after a pause
		if took := (<-over).Sub(start); took < 18*time.Second {
			t.Errorf("after a pause the countdown of 20s took %v", took)
		}
	})
}
