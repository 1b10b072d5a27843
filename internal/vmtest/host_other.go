//go:build !linux

package vmtest

// canHost reports whether guests can run on this machine directly.
func canHost() bool { return false }
