//go:build linux

package main

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSchedule shows that a seed gives the same faults each time, that all kinds
// come, and that no fault begins before the one before it is over.
func TestSchedule(t *testing.T) {
	kinds := []kind{reset, pause, snapshot, agentKill, hostCtlKill, diskFull}
	first := schedule(7, 2, kinds, 5*time.Minute)
	equal := cmp.AllowUnexported(fault{})
	if diff := cmp.Diff(first, schedule(7, 2, kinds, 5*time.Minute), equal); diff != "" {
		t.Errorf("the same seed gives another schedule:\n%s", diff)
	}
	for _, other := range [][]fault{schedule(8, 2, kinds, 5*time.Minute), schedule(7, 3, kinds, 5*time.Minute)} {
		if cmp.Equal(first, other, equal) {
			t.Error("another seed or machine gives the same schedule")
		}
	}
	var over time.Duration
	seen := make(map[kind]int)
	for _, f := range first {
		if f.at < over || f.at >= 5*time.Minute {
			t.Errorf("%v begins before %v", f, over)
		}
		if f.lasts > 20*time.Second {
			t.Errorf("%v lasts too long", f)
		}
		over = f.at + f.lasts
		seen[f.kind]++
	}
	for _, k := range kinds {
		if seen[k] < 5 {
			t.Errorf("%v comes %d times", k, seen[k])
		}
	}
	for _, f := range schedule(7, 2, kinds, time.Minute) {
		if f.lasts > 4*time.Second {
			t.Errorf("in a short run, %v lasts too long", f)
		}
	}
}

// TestOperations shows that the operations of a client follow from the seed.
func TestOperations(t *testing.T) {
	s := &soak{opts: options{seed: 3}}
	list := func(number int) (works []work) {
		c := &client{s: s, number: number}
		for n := range 200 {
			op := c.operation(n, nil)
			works = append(works, op.work, work(op.random.IntN(1000)))
		}
		return works
	}
	if !slices.Equal(list(1), list(1)) {
		t.Error("the same client does something else")
	}
	if slices.Equal(list(1), list(2)) {
		t.Error("two clients do the same")
	}
}
