package main

import (
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestSignalSentTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wishes
		for i, step := range []struct {
			after time.Duration
			sig   os.Signal
			want  int
		}{
			{0, syscall.SIGTERM, 1},
			{0, syscall.SIGTERM, 1},              // to the process group, by timeout(1)
			{againAfter - 1, syscall.SIGTERM, 1}, // counted from the first
			{1, syscall.SIGTERM, 2},              // again
			{0, syscall.SIGINT, 3},               // another one
			{againAfter + time.Millisecond, syscall.SIGINT, 4},
		} {
			time.Sleep(step.after)
			before := w.n
			if counted := w.add(step.sig); w.n != step.want || counted != (w.n > before) {
				t.Errorf("step %d: %d wishes, counted %v; want %d", i, w.n, counted, step.want)
			}
		}
	})
}
