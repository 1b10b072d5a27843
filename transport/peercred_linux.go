package transport

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerCred reads SO_PEERCRED of a Unix socket: the process that connected, or
// on the dialing side the one that listened.
func peerCred(c *net.UnixConn) (cred, bool) {
	rc, err := c.SyscallConn()
	if err != nil {
		return cred{}, false
	}
	var u *unix.Ucred
	var uerr error
	err = rc.Control(func(fd uintptr) {
		u, uerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || uerr != nil {
		return cred{}, false
	}
	return cred{uid: u.Uid, gid: u.Gid, pid: u.Pid}, true
}
