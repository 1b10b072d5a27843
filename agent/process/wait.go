//go:build linux

package process

import (
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// awaitExit returns when the process has ended, and leaves it unreaped: until
// then its pid, which is also its group's, is nobody else's. It needs no
// thread for as long as it waits, given a pidfd.
func awaitExit(c child) {
	if c.handle != nil {
		conn, err := c.handle.SyscallConn()
		if err == nil {
			err = conn.Read(func(uintptr) bool { return hasExited(c.pid, unix.WNOHANG) })
		}
		if err == nil {
			return
		}
	}
	hasExited(c.pid, 0)
}

// hasExited reports whether a child has ended, or waits for that if flags is 0.
func hasExited(pid, flags int) bool {
	// The pid in siginfo_t, which stays 0 while there is nothing to report.
	var info struct {
		_  [3]int32
		_  [0]uintptr
		id int32
		_  [128 - 20]byte
	}
	for {
		err := unix.Waitid(unix.P_PID, pid, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT|flags, nil)
		if !errors.Is(err, syscall.EINTR) {
			return err != nil || info.id != 0
		}
	}
}

// waitPid is wait4(2) for one child.
func waitPid(pid int, status *unix.WaitStatus, usage *unix.Rusage) (int, error) {
	for {
		n, err := unix.Wait4(pid, status, 0, usage)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
