//go:build linux

package reap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// childInfo is siginfo_t as waitid(2) fills it: after the three ints comes a
// union that is aligned as a pointer, and begins with the pid.
type childInfo struct {
	_  [3]int32
	_  [0]uintptr
	id int32
	_  [128 - 20]byte
}

func (c *childInfo) siginfo() *unix.Siginfo { return (*unix.Siginfo)(unsafe.Pointer(c)) }

func (c *childInfo) pid() int { return int(c.id) }
