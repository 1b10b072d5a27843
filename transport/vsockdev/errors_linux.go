package vsockdev

import (
	"errors"
	"net"
)

// What calls of a [Device] and connections of a guest end with, for errors.Is.
var (
	// ErrNoGuest: no front end is connected, or it has ended, as a VM that is
	// killed or switched off does.
	ErrNoGuest = errors.New("vsockdev: no VM is connected to the device")

	// ErrReset: the guest reset the connection, or was itself reset: it booted
	// again or was restored.
	ErrReset = errors.New("vsockdev: connection reset by the guest")

	// ErrRefused: nobody listens on the port in the guest.
	ErrRefused = errors.New("vsockdev: connection refused by the guest")

	// ErrTooMany: a limit of the device's configuration is reached.
	ErrTooMany = errors.New("vsockdev: too many connections")

	// ErrClosed: the device was closed. It is net.ErrClosed.
	ErrClosed = net.ErrClosed
)
