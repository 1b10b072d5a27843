package trusted

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	hasModes = true
	nonblock = unix.O_NONBLOCK | unix.O_NOCTTY
)

// maxLinks bounds the links that one path may lead through, as the kernel does.
const maxLinks = 40

// walker goes down a path a name at a time, so that it sees every directory that
// the file depends on.
type walker struct {
	dirs  []dir // from the root down
	links int
}

// dir is an open directory.
type dir struct {
	fd     int
	path   string
	shared bool // sticky: others may make names in it
}

// open opens the file at a path, if it is trusted and has none of the permissions
// that are refused.
func open(name string, refused os.FileMode) (*os.File, error) {
	w, last, err := walk(name)
	if err != nil {
		return nil, err
	}
	defer w.close()
	in := w.dirs[len(w.dirs)-1]
	full := path.Join(in.path, last)
	// Before it is opened: to open a FIFO or a device can wait, or do something.
	var before, after unix.Stat_t
	if err := unix.Fstatat(in.fd, last, &before, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, &os.PathError{Op: "stat", Path: full, Err: err}
	}
	if err := checkStat(full, &before, refused); err != nil {
		return nil, err
	}
	if in.shared {
		return nil, refuse("%s lies in %s, where anybody may put files: move it", full, in.path)
	}
	fd, err := openat(in.fd, last, unix.O_RDONLY|unix.O_NOFOLLOW|nonblock)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: full, Err: err}
	}
	f := os.NewFile(uintptr(fd), full)
	if err = unix.Fstat(fd, &after); err == nil {
		err = checkStat(full, &after, refused)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// checkDir checks a directory, which need not exist, and all above it.
func checkDir(name string) error {
	w, last, err := walk(filepath.Join(name, "file"))
	if err != nil {
		return err
	}
	defer w.close()
	if in := w.dirs[len(w.dirs)-1]; in.shared {
		return refuse("%s would lie in %s, where anybody may put files: use a directory of its own", last, in.path)
	}
	return nil
}

// syncDir has the names in a directory written to the disk.
func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // which some file systems say
		return err
	}
	return nil
}

// walk opens the directories above a file. It returns the file's name in the last
// of them. The caller closes the walker.
func walk(name string) (*walker, string, error) {
	w := &walker{}
	last, err := w.down(name)
	if err != nil {
		w.close()
		return nil, "", err
	}
	return w, last, nil
}

func (w *walker) down(name string) (last string, err error) {
	if strings.HasSuffix(name, "/") || name == "" {
		return "", refuse("%q names no file", name)
	}
	if name, err = filepath.Abs(name); err != nil {
		return "", err
	}
	if err = w.enter(unix.AT_FDCWD, "/", "/"); err != nil {
		return "", err
	}
	rest := strings.Split(name, "/")
	for len(rest) > 0 {
		n := rest[0]
		rest = rest[1:]
		switch {
		case n == "" || n == ".":
			continue
		case n == "..":
			w.up()
			continue
		}
		in := w.dirs[len(w.dirs)-1]
		target, isLink, err := w.link(in, n)
		switch {
		case err != nil:
			return "", err
		case isLink:
			if strings.HasPrefix(target, "/") {
				w.toRoot()
			}
			rest = append(strings.Split(target, "/"), rest...)
		case len(rest) == 0:
			return n, nil
		default:
			if err := w.enter(in.fd, n, path.Join(in.path, n)); err != nil {
				return "", err
			}
		}
	}
	return "", refuse("%s is no regular file", name)
}

// link returns where a name leads to if it is a link. What does not exist is none.
func (w *walker) link(in dir, name string) (target string, ok bool, err error) {
	full := path.Join(in.path, name)
	var st unix.Stat_t
	switch err := unix.Fstatat(in.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return "", false, nil
	case err != nil:
		return "", false, &os.PathError{Op: "stat", Path: full, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return "", false, nil
	case in.shared:
		return "", false, refuse("%s is a link in a directory where anybody may put one: name what it leads to", full)
	}
	if w.links++; w.links > maxLinks {
		return "", false, &os.PathError{Op: "open", Path: full, Err: unix.ELOOP}
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(in.fd, name, buf)
	if err != nil {
		return "", false, &os.PathError{Op: "readlink", Path: full, Err: err}
	}
	return string(buf[:n]), true, nil
}

// enter opens a directory and checks it.
func (w *walker) enter(at int, name, full string) error {
	fd, err := openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return &os.PathError{Op: "open", Path: full, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = checkOwner(full, &st)
	}
	shared := st.Mode&unix.S_ISVTX != 0
	if err == nil && !shared && writable(&st, 0o022) {
		err = refuse("%s may be written by others (mode %#o): chmod go-w %[1]s", full, st.Mode&0o7777)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	w.dirs = append(w.dirs, dir{fd: fd, path: full, shared: shared && writable(&st, 0o022)})
	return nil
}

func (w *walker) up() {
	if n := len(w.dirs) - 1; n > 0 {
		unix.Close(w.dirs[n].fd)
		w.dirs = w.dirs[:n]
	}
}

func (w *walker) toRoot() {
	for len(w.dirs) > 1 {
		w.up()
	}
}

func (w *walker) close() {
	for _, d := range w.dirs {
		unix.Close(d.fd)
	}
	w.dirs = nil
}

// checkStat checks the file itself.
func checkStat(full string, st *unix.Stat_t, refused os.FileMode) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return refuse("%s is no regular file", full)
	}
	if err := checkOwner(full, st); err != nil {
		return err
	}
	perm := st.Mode & 0o777
	switch {
	case !writable(st, uint32(refused)):
		return nil
	case perm&0o022 != 0:
		return refuse("%s may be written by others (mode %#o): chmod go-w %[1]s", full, perm)
	}
	return refuse("%s may be read by others (mode %#o): chmod 600 %[1]s, and make a new key if others are about", full, perm)
}

func checkOwner(full string, st *unix.Stat_t) error {
	self := os.Geteuid()
	if st.Uid == 0 || int(st.Uid) == self {
		return nil
	}
	want := "root"
	if self != 0 {
		want = fmt.Sprintf("root or uid %d", self)
	}
	return refuse("%s belongs to uid %d, not to %s: chown it", full, st.Uid, want)
}

// writable reports whether others have one of the permissions. The group of an
// ordinary user alone, which has the user's number, is no other; for root there is
// no such exception.
func writable(st *unix.Stat_t, refused uint32) bool {
	if st.Uid != 0 && st.Gid == st.Uid {
		refused &^= 0o020
	}
	return st.Mode&refused&0o777 != 0
}

func openat(at int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
