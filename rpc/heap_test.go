package rpc

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

// holds reports whether f holds memory, and that it is as much as it should be.
func holds(t *testing.T, f *heapFloor) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if (f.mem.Cap() >= heapFloorSize) != f.held {
		t.Errorf("held %v, and %d bytes", f.held, f.mem.Cap())
	}
	return f.held
}

// comeIn counts as many messages as come in a second, at the rate given.
func comeIn(f *heapFloor, rate int) {
	for range 100 {
		f.received(rate / 100)
		time.Sleep(10 * time.Millisecond)
	}
}

func TestHeapFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f heapFloor
		for range 5 {
			comeIn(&f, heapFloorRate/2)
		}
		if holds(t, &f) {
			t.Error("held for less than the rate")
		}
		for range 60 * heapFloorRate / 100 {
			f.received(heapFloorLeast - 1)
		}
		if holds(t, &f) {
			t.Error("held for short messages")
		}
		for range 5 {
			comeIn(&f, 2*heapFloorRate)
		}
		if !holds(t, &f) {
			t.Error("not held while messages come in bulk")
		}
		time.Sleep(heapFloorTime + 1100*time.Millisecond)
		if holds(t, &f) {
			t.Error("held when no more came")
		}
	})
}

func TestHeapFloorMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(math.MaxInt64 - 1)
	defer debug.SetMemoryLimit(before)
	synctest.Test(t, func(t *testing.T) {
		var f heapFloor
		for range 5 {
			comeIn(&f, 2*heapFloorRate)
		}
		if holds(t, &f) {
			t.Error("held, where the program has a memory limit")
		}
	})
}
