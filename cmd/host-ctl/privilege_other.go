//go:build !linux

package main

// mayBindPrivileged reports false: there is no native vsock here.
func mayBindPrivileged() bool { return false }
