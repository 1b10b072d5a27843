// Package wait is how tests wait for what they cannot be told of.
package wait

import (
	"context"
	"testing"
	"time"
)

// Limit is how long For and Context wait: long enough for a machine that does much else.
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

// Context returns the test's context, which also ends after Limit: a call that hangs
// fails where it is made, and not the whole package after minutes.
func Context(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), Limit)
	tb.Cleanup(cancel)
	return ctx
}
