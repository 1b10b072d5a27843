package main

import "golang.org/x/sys/unix"

// mayBindPrivileged reports whether this process may dial from a vsock port
// below 1024: it has CAP_NET_BIND_SERVICE.
func mayBindPrivileged() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}
