// Package pinned opens files by paths that were decided on, so that no user of the
// guest leads them elsewhere meanwhile, and says where an open file is.
package pinned

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links a path may lead through: Linux's own.
const maxLinks = 40

const flags = unix.O_PATH | unix.O_NOFOLLOW

// Open opens a clean, absolute path as a descriptor that only names a file
// (O_PATH), and which the caller must close. It begins at root, a directory that is
// open, or at / if root is nil. A symbolic link on the way, or at the end, is
// followed only if trusted is set and none but root, or the agent's own user, may
// write to any directory down to it: nobody else can have put it there. Any other
// link is ELOOP.
func Open(root *os.File, name string, trusted bool) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	rest, links := name, 0
again:
	dir, err := begin(root)
	if err != nil {
		return fail(err)
	}
	real, safe := "/", trusted && onlyRootWrites(dir)
	for rest != "" {
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		if element == "" || element == "." {
			continue
		}
		fd, err := unix.Openat(dir, element, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			unix.Close(dir)
			return fail(err)
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFLNK {
			unix.Close(dir)
			dir, real, safe = fd, path.Join(real, element), safe && onlyRootWrites(fd)
			continue
		}
		target := ""
		if err == nil {
			target, err = readlink(fd)
		}
		unix.Close(fd)
		unix.Close(dir)
		if links++; err == nil && (!safe || links > maxLinks) {
			err = unix.ELOOP
		}
		if err != nil {
			return fail(err)
		}
		if !path.IsAbs(target) {
			target = path.Join(real, target)
		}
		rest = path.Join(target, rest)
		goto again
	}
	return os.NewFile(uintptr(dir), name), nil
}

// begin opens what a walk begins at.
func begin(root *os.File) (int, error) {
	if root == nil {
		return unix.Open("/", flags|unix.O_CLOEXEC, 0)
	}
	return unix.Openat(int(root.Fd()), ".", flags|unix.O_CLOEXEC, 0)
}

// onlyRootWrites reports whether a directory is root's or the agent's own, and
// nobody else may write to it.
func onlyRootWrites(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && (st.Uid == 0 || int(st.Uid) == os.Getuid()) && st.Mode&0o022 == 0
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Proc returns a path to what f has open, for calls that take paths alone. It
// leads there as long as f is open.
func Proc(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// Path returns where a file is that is open, and ENOENT if it has no name any more.
func Path(f *os.File) (string, error) {
	name, err := os.Readlink(Proc(f))
	switch {
	case err != nil:
		return "", err
	case !path.IsAbs(name) || strings.HasSuffix(name, " (deleted)"):
		return "", &fs.PathError{Op: "readlink", Path: name, Err: unix.ENOENT}
	}
	return name, nil
}
