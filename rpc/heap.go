package rpc

import (
	"math"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// heapFloorSize is how much is held. It takes addresses, not memory, since it
	// is never touched; what it costs is that as much garbage may be there before
	// it is collected.
	heapFloorSize = 8 << 20
	// heapFloorRate is how many bytes a second of messages are worth it.
	heapFloorRate = 16 << 20
	// heapFloorTime is how long it is held after that: small calls are better off
	// with a small heap, which stays in the CPU's cache.
	heapFloorTime = time.Second
	// heapFloorLeast is the shortest message of a stream that counts.
	heapFloorLeast = 1 << 10
)

// A heapFloor keeps the garbage collector from running too often. The messages of
// streams that are received in bulk, and that are not in slabs, are garbage soon, and
// with a heap of a few megabytes, as programs have that do little else, Go collects
// for every 4 MiB of them: that takes longer than to receive them, and the memory it
// gives to the system each time has to be had back. So that the next collection is
// further away, a heapFloor holds a piece of the heap while messages are coming in
// bulk. A program with a memory limit is left alone: it has less memory than that to
// give. (GOGC would do the same, but is the whole program's.)
type heapFloor struct {
	bytes atomic.Int64 // received since begun, when that was last set

	mu    sync.Mutex
	begun time.Time
	held  bool
	mem   strings.Builder // unlike make, does not clear
}

// floor is that of the process, which has one heap.
var floor heapFloor

// memoryIsLimited reports whether the program has a memory limit (GOMEMLIMIT).
func memoryIsLimited() bool { return debug.SetMemoryLimit(-1) != math.MaxInt64 }

// received counts a message of a stream, of n bytes, that has memory of its own.
func (f *heapFloor) received(n int) {
	if n < heapFloorLeast {
		return
	}
	if f.bytes.Add(int64(n)) >= heapFloorRate {
		f.full()
	}
}

// full holds the memory if what was counted came within a second.
func (f *heapFloor) full() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes.Load() < heapFloorRate {
		return // another goroutine was first
	}
	f.bytes.Store(0)
	now := time.Now()
	bulk := now.Sub(f.begun) < time.Second
	f.begun = now
	if bulk && !f.held && !memoryIsLimited() {
		f.held = true
		f.mem.Grow(heapFloorSize)
		time.AfterFunc(heapFloorTime, f.look)
	}
}

// look lets the memory go once there is no bulk any more.
func (f *heapFloor) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if left := heapFloorTime - time.Since(f.begun); left > 0 {
		time.AfterFunc(left, f.look)
		return
	}
	f.held, f.mem = false, strings.Builder{}
}
