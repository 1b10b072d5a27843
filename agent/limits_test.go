//go:build linux

package agent

import (
	"fmt"
	"testing"
	"time"
)

// TestAuditRate: callers who are not trusted cannot fill the log.
func TestAuditRate(t *testing.T) {
	var r rate
	now := time.Unix(1_000_000_000, 0)
	for second := range 3 {
		n := 0
		for range 10 * maxAuditedRefusals {
			if r.take(now.Add(time.Duration(second) * time.Second)) {
				n++
			}
		}
		if n != maxAuditedRefusals {
			t.Errorf("%d records in second %d", n, second)
		}
	}
}

// TestMaxOwners: who has started which session is remembered of so many, and the
// oldest are forgotten.
func TestMaxOwners(t *testing.T) {
	var o owners
	for i := range maxOwners + 10 {
		o.set(fmt.Sprint(i), "me")
		o.set(fmt.Sprint(i), "somebody else")
	}
	if len(o.of) != maxOwners || len(o.order) != maxOwners {
		t.Errorf("%d and %d are remembered", len(o.of), len(o.order))
	}
	if _, known := o.get("9"); known {
		t.Error("the oldest are remembered")
	}
	if owner, known := o.get(fmt.Sprint(maxOwners + 9)); !known || owner != "me" {
		t.Errorf("the last is of %q, %v", owner, known)
	}
}
