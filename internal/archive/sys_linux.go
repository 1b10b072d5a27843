package archive

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// onLinux says whether errnos have Linux's numbers.
const onLinux = true

// openFlags keep an open from waiting for the other end of a FIFO, and from
// following a link that has just been put there.
const openFlags = unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC

// followFlags are openFlags where a link may be followed.
const followFlags = unix.O_NONBLOCK | unix.O_CLOEXEC

// sysInfo is what a system says of a file beyond fs.FileInfo.
type sysInfo struct {
	uid, gid       uint32
	links          uint64
	device, number uint64
	changed        int64
	allocated      uint64 // bytes
}

func sysOf(info fs.FileInfo) sysInfo {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return sysInfo{}
	}
	return sysInfo{uid: st.Uid, gid: st.Gid, links: uint64(st.Nlink), device: uint64(st.Dev), number: st.Ino,
		changed: syscall.TimespecToNsec(st.Ctim), allocated: uint64(st.Blocks) * 512}
}

// fileUser returns the user who owns what the calling thread makes. That is not the
// process's user where an agent acts as another one, with setfsuid(2).
func fileUser() uint32 {
	uid, _ := unix.SetfsuidRetUid(-1) // changes nothing, and has no error
	return uint32(uid)
}

// chownLink gives a symbolic link an owner, and fails if there is no link: who may write
// the directory may have put another file there, which is not to be given away.
func chownLink(root *os.Root, name string, uid, gid int) error {
	f, err := root.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && info.Mode().Type() != fs.ModeSymlink {
		err = syscall.EINVAL
	}
	if err == nil {
		err = unix.Fchownat(int(f.Fd()), "", uid, gid, unix.AT_EMPTY_PATH)
	}
	if err != nil {
		return &fs.PathError{Op: "lchown", Path: name, Err: err}
	}
	return nil
}

// realPath returns where an open file is, without links. It is not said of one
// that has no name any more.
func realPath(f *os.File) (string, error) {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err == nil && (name == "" || name[0] != '/' || strings.HasSuffix(name, " (deleted)")) {
		err = &fs.PathError{Op: "readlink", Path: f.Name(), Err: fs.ErrNotExist}
	}
	return name, err
}

// nextData returns the first range of data of f from offset on, as far as the
// file system knows; both are size if there is none.
func nextData(f *os.File, offset, size int64) (from, to int64) {
	from, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil || from >= size {
		if err != nil {
			return offset, size
		}
		return size, size
	}
	to, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
	if err != nil || to > size {
		to = size
	}
	return from, to
}

// listXattrs returns the extended attributes of a file that is open; none where
// there can be none.
func listXattrs(f *os.File) (names []string, values [][]byte, err error) {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(f.Fd()), buf)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
			err = nil
		}
		return nil, nil, err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, name := range splitZero(buf[:n]) {
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		if err != nil {
			continue // gone, or not for us
		}
		names, values = append(names, name), append(values, append([]byte(nil), value[:n]...))
	}
	return names, values, nil
}

func setXattr(f *os.File, name string, value []byte) error {
	return unix.Fsetxattr(int(f.Fd()), name, value, 0)
}

func splitZero(b []byte) []string {
	var names []string
	for start, i := 0, 0; i < len(b); i++ {
		if b[i] == 0 {
			names = append(names, string(b[start:i]))
			start = i + 1
		}
	}
	return names
}

// lock takes the file for this process alone, or fails.
func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// syncTree makes the file system durable that f is on.
func syncTree(f *os.File) error { return unix.Syncfs(int(f.Fd())) }

// hasSyncTree says whether there is syncTree.
const hasSyncTree = true

// beginWriteback has the system begin to write a range of a file to the disk, and
// does not wait for it. What is durable fsync alone says.
func beginWriteback(f *os.File, offset, size int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, size, unix.SYNC_FILE_RANGE_WRITE)
}
