package archive

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lookFlags open a file to look at it alone, whoever may read it.
const lookFlags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC

// inheritOwner gives f the owner and the group of a file as far as this user may.
func inheritOwner(f *os.File, of fs.FileInfo) (inherited, error) {
	now, err := f.Stat()
	if err != nil {
		return inherited{}, err
	}
	have, want := sysOf(now), sysOf(of)
	in := inherited{have.uid == want.uid, have.gid == want.gid}
	if in.user && in.group {
		return in, nil
	}
	err = f.Chown(int(want.uid), int(want.gid))
	if err == nil {
		return inherited{true, true}, nil
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EINVAL) {
		if !in.group && f.Chown(-1, int(want.gid)) == nil {
			in.group = true
		}
		err = nil
	}
	return in, err
}

// posixACL is the attribute with the access control list.
const posixACL = "system.posix_acl_access"

// ownXattrs are of the contents, and not handed on.
var ownXattrs = map[string]bool{"security.capability": true, "security.ima": true, "security.evm": true}

// inheritXattrs gives f the extended attributes of another file, open with lookFlags, as
// far as this user may read and set them. Its access control list is with acl the other
// file's, and otherwise none, whatever the directory gives to new files.
func inheritXattrs(f, of *os.File, acl bool) error {
	_ = unix.Fremovexattr(int(f.Fd()), posixACL) // as a rule there is none
	name := "/proc/self/fd/" + strconv.Itoa(int(of.Fd()))
	n, err := unix.Listxattr(name, nil)
	if err != nil || n == 0 {
		return nil // there are none, or none that can be seen
	}
	buf := make([]byte, n+4<<10)
	if n, err = unix.Listxattr(name, buf); err != nil {
		return err
	}
	var value []byte
	for _, attr := range splitZero(buf[:n]) {
		if ownXattrs[attr] || attr == posixACL && !acl {
			continue
		}
		if value == nil {
			value = make([]byte, 64<<10) // XATTR_SIZE_MAX
		}
		k, err := unix.Getxattr(name, attr, value)
		if err == nil {
			err = setXattr(f, attr, value[:k])
		}
		if err != nil && attr == posixACL {
			return err
		}
	}
	return nil
}

// setTimes sets the times of an open file.
func setTimes(_ *os.Root, f *os.File, name string, when time.Time) error {
	t, err := unix.TimeToTimespec(when)
	if err == nil {
		times := [2]unix.Timespec{t, t}
		if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&times[0])), 0, 0, 0); errno != 0 {
			err = errno
		}
	}
	if err != nil {
		return &fs.PathError{Op: "chtimes", Path: name, Err: err}
	}
	return nil
}

// setDirTimes sets the times of a directory.
func setDirTimes(dir *os.Root, when time.Time) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return setTimes(dir, f, ".", when)
}

// setLinkTimes sets the times of a symbolic link in dir.
func setLinkTimes(dir *os.Root, name string, when time.Time) error {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	t, err := unix.TimeToTimespec(when)
	if err == nil {
		err = unix.UtimesNanoAt(int(f.Fd()), name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.ENOSYS) {
		return &fs.PathError{Op: "chtimes", Path: name, Err: err}
	}
	return nil
}
