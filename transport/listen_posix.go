//go:build unix

package transport

import (
	"errors"
	"os"
	"syscall"
)

// limitMode limits the permissions of the file that binding the socket will
// create. Linux takes them from the socket's own mode; other systems refuse to
// change that, and the caller's chmod after the fact has to do.
func limitMode(rc syscall.RawConn, mode os.FileMode) error {
	return rc.Control(func(fd uintptr) {
		_ = syscall.Fchmod(int(fd), uint32(mode))
	})
}

// setBacklog changes the backlog of a socket that listens already.
func setBacklog(c syscall.Conn, n int) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var lerr error
	err = rc.Control(func(fd uintptr) { lerr = os.NewSyscallError("listen", syscall.Listen(int(fd), n)) })
	return errors.Join(err, lerr)
}
