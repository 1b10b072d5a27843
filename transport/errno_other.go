//go:build !windows

package transport

import "syscall"

const (
	wsaEADDRINUSE   = syscall.EADDRINUSE
	wsaECONNREFUSED = syscall.ECONNREFUSED
)
