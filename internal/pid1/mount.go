//go:build linux

package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A mount is one file system that a guest expects.
type mount struct {
	target string
	fstype string
	flags  uintptr
	data   string
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mounts is in the order in which they have to be made.
var mounts = []mount{
	{"/proc", "proc", quiet, ""},
	{"/sys", "sysfs", quiet, ""},
	{"/sys/fs/cgroup", "cgroup2", quiet, ""},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
}

// Mount mounts /proc, /sys, cgroup v2, /dev with pts and shm, /run and /tmp
// below root, usually "/", where they are not mount points already. The error
// joins those of all that failed.
func Mount(root string) error {
	var errs []error
	for _, m := range mounts {
		if err := m.make(root); err != nil {
			errs = append(errs, fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err))
		}
	}
	return errors.Join(append(errs, linkDev(root))...)
}

func (m mount) make(root string) error {
	target := filepath.Join(root, m.target)
	if is, err := isMountPoint(target); is || err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	err := unix.Mount(m.fstype, target, m.fstype, m.flags, m.data)
	if errors.Is(err, unix.EBUSY) {
		return nil // the kernel has done it (CONFIG_DEVTMPFS_MOUNT)
	}
	return err
}

// isMountPoint reports whether another file system begins at path.
func isMountPoint(path string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(path, &here); err != nil {
		return false, err
	}
	if err := unix.Stat(filepath.Dir(path), &above); err != nil {
		return false, err
	}
	return here.Dev != above.Dev, nil
}

// linkDev makes the links in /dev that every system has and devtmpfs has not.
func linkDev(root string) error {
	var errs []error
	for _, link := range [][2]string{
		{"/proc/self/fd", "dev/fd"},
		{"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"},
		{"/proc/self/fd/2", "dev/stderr"},
	} {
		if err := os.Symlink(link[0], filepath.Join(root, link[1])); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
