package transport

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerCred reads LOCAL_PEERCRED and LOCAL_PEERPID of a Unix socket.
func peerCred(c *net.UnixConn) (cred, bool) {
	rc, err := c.SyscallConn()
	if err != nil {
		return cred{}, false
	}
	var x *unix.Xucred
	var pid int
	var xerr error
	err = rc.Control(func(fd uintptr) {
		x, xerr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		pid, _ = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	})
	if err != nil || xerr != nil || x.Ngroups < 1 {
		return cred{}, false
	}
	return cred{uid: x.Uid, gid: x.Groups[0], pid: int32(pid)}, true
}
