// Package wait is how tests wait for what they cannot be told of.
package wait

import (
	"testing"
	"time"
)

// Limit is how long For waits: long enough for a machine that does much else.
const Limit = time.Minute

// For waits until ok returns true, and fails the test with what it waited for if
// that does not come to pass within Limit. ok is called on the test's goroutine.
func For(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(Limit)
	for pause := time.Millisecond; !ok(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", Limit, what)
		}
		time.Sleep(pause)
	}
}
