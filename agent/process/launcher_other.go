//go:build !linux

package process

// MaybeRunLauncher does nothing: sessions run on Linux only.
func MaybeRunLauncher() {}
