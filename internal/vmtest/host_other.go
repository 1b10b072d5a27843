//go:build !linux

package vmtest

// canHost reports whether guests can run on this machine directly.
func canHost() bool { return false }

// canHoldMemory reports whether the memory of a kernel in user mode can be a
// file in dir.
func canHoldMemory(dir string, size uint64) bool { return false }
