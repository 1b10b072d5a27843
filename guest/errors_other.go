//go:build !linux

package guest

// errnoIsLinux says whether syscall.Errno has the numbers of a Linux guest.
const errnoIsLinux = false
