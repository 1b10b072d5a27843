//go:build 386 || arm

package subject

import "golang.org/x/sys/unix"

// The calls without 32 in their names have ids of 16 bits here.
const (
	sysSetgroups = unix.SYS_SETGROUPS32
	sysSetfsgid  = unix.SYS_SETFSGID32
	sysSetfsuid  = unix.SYS_SETFSUID32
)
