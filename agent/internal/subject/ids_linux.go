//go:build !386 && !arm

package subject

import "golang.org/x/sys/unix"

const (
	sysSetgroups = unix.SYS_SETGROUPS
	sysSetfsgid  = unix.SYS_SETFSGID
	sysSetfsuid  = unix.SYS_SETFSUID
)
