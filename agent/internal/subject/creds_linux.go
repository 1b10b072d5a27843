package subject

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
)

// become gives the calling thread, and no other, the rights of an account to
// files, and takes all others from it for good. Go's own functions would change
// all threads.
func become(a account.Account) error {
	if err := SetGroups(a.Groups); err != nil {
		return &BecomeError{"setgroups", err}
	}
	// These two do not say whether they worked; asked for an impossible id they
	// say which one is in force.
	const none = ^uintptr(0)
	for _, c := range []struct {
		name string
		call uintptr
		id   uint32
	}{{"setfsgid", sysSetfsgid, a.GID}, {"setfsuid", sysSetfsuid, a.UID}} {
		_, _, _ = unix.RawSyscall(c.call, uintptr(c.id), 0, 0)
		if now, _, _ := unix.RawSyscall(c.call, none, 0, 0); uint32(now) != c.id {
			return &BecomeError{c.name, unix.EPERM}
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var empty [2]unix.CapUserData
	if err := unix.Capset(&header, &empty[0]); err != nil {
		return &BecomeError{"capset", err}
	}
	return nil
}

// SetGroups is setgroups(2) for the calling thread alone.
func SetGroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(sysSetgroups, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return errno
	}
	return nil
}
