package main

import (
	"os"
	"time"
)

// againAfter is how long after a signal the same one counts as sent again. timeout(1)
// and shells that end a job signal both host-ctl and its process group, which is one
// wish.
const againAfter = 200 * time.Millisecond

// wishes counts how often host-ctl was asked to end.
type wishes struct {
	n    int
	last os.Signal
	at   time.Time
}

// add counts a signal that comes now, unless it is the one before once more. It
// reports whether it did.
func (w *wishes) add(sig os.Signal) bool {
	if sig == w.last && time.Since(w.at) < againAfter {
		return false
	}
	w.n, w.last, w.at = w.n+1, sig, time.Now()
	return true
}
