package main

import (
	"math"
	"runtime/debug"
)

// maxHeap is how much memory the garbage collector lets the program have, beside its
// code. What a guest can make it hold at a time is less; without a limit as much again
// may be there that is not held any more, before it is collected. It makes the bound of
// docs/limits.md one for the process.
const maxHeap = 40 << 20

// limitMemory sets maxHeap, unless GOMEMLIMIT asks for less.
func limitMemory() {
	if debug.SetMemoryLimit(-1) > maxHeap {
		debug.SetMemoryLimit(maxHeap)
	}
}

// unlimitMemory is for what a limit would slow down and that needs none: a guest that is
// a part of this process, or the device of a VM.
func unlimitMemory() { debug.SetMemoryLimit(math.MaxInt64) }
