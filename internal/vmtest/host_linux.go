package vmtest

import (
	"os"

	"golang.org/x/sys/unix"
)

// canHost reports whether guests can run on this machine directly: it has KVM
// and vhost-vsock, both open to the caller, and it is itself no guest with
// vsock, so that no dial from here can reach a host of its own.
func canHost() bool {
	for _, dev := range []string{"/dev/kvm", "/dev/vhost-vsock"} {
		f, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			return false
		}
		f.Close()
	}
	f, err := os.Open("/dev/vsock")
	if err != nil {
		return false
	}
	defer f.Close()
	cid, err := unix.IoctlGetUint32(int(f.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	// A guest with vsock has its own CID here, however many guests it has.
	return err == nil && cid == unix.VMADDR_CID_HOST
}

// canHoldMemory reports whether the memory of a kernel in user mode, size bytes
// of which it may execute, can be a file in dir. In a container, /dev/shm is
// often small, or noexec.
func canHoldMemory(dir string, size uint64) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_NOEXEC == 0 && st.Bavail*uint64(st.Bsize) >= size
}
