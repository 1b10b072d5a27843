package transport

import "syscall"

// Winsock's own numbers, which the syscall package does not name.
const (
	wsaEADDRINUSE   = syscall.Errno(10048)
	wsaECONNREFUSED = syscall.Errno(10061)
)
