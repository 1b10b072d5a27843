package file

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/internal/archive"
)

// tree is the files that a call can reach: those beneath root, or all.
type tree struct {
	root *os.Root // nil: all
	base string   // the directory that root is, for a call that is confined to it; its paths begin with it
	home string   // what relative paths begin at
	// other is set if the thread acts as another user than the agent's.
	other bool

	service *os.File // the directory of the service's root, if it has one
	denied  []string // what the call must not reach, as its paths name it
	only    string   // the name of the only file beneath base that it may open
}

// path returns a path of a request as this tree's methods want it.
func (t tree) path(p []byte) (string, error) {
	if len(p) == 0 {
		return "", &fs.PathError{Op: "resolve", Path: "", Err: syscall.ENOENT}
	}
	if bytes.IndexByte(p, 0) >= 0 {
		return "", &fs.PathError{Op: "resolve", Path: string(p), Err: syscall.EINVAL}
	}
	if t.base != "" {
		return t.inside(string(p))
	}
	path := string(p)
	if path[0] != '/' {
		path = strings.TrimRight(t.home, "/") + "/" + path
	}
	if t.other && t.root == nil {
		if err := noMagic(path); err != nil {
			return "", err
		}
	}
	return path, nil
}

// asDir, behind a path, has os.OpenRoot open it only if it is a directory, and not
// wait for the other end of a FIFO that somebody has put there.
const asDir = "/."

// in returns an absolute path as one beneath the root.
func in(path string) string { return archive.InRoot(path) }

// parent opens the directory beneath the root that holds the last element of a
// path, which is returned and is a plain name. What a system call does with that
// name in that directory stays beneath the root as long as it follows no link.
func (t tree) parent(path string) (*os.File, string, error) {
	dir, name := ".", strings.TrimRight(in(path), "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, name = name[:i+1], name[i+1:]
	}
	if name == "" || name == "." || name == ".." {
		return nil, "", &fs.PathError{Op: "open", Path: path, Err: syscall.EINVAL}
	}
	f, err := t.root.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return f, name, err
}

// open never waits for the other end of a FIFO.
func (t tree) open(path string, flags int, mode fs.FileMode) (f *os.File, err error) {
	flags |= unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	if t.root != nil {
		// os.Root takes no other bits.
		f, err = t.root.OpenFile(in(path), flags, mode.Perm())
	} else if t.other {
		f, err = openAsOther(path, flags, mode)
	} else {
		f, err = os.OpenFile(path, flags, mode)
	}
	if err != nil {
		return nil, err
	}
	if err := t.reaches(f, path); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openRoot opens a directory to go through it.
func (t tree) openRoot(path string) (root *os.Root, err error) {
	if t.root != nil {
		root, err = t.root.OpenRoot(in(path) + asDir)
	} else {
		root, err = os.OpenRoot(path + asDir)
	}
	if err != nil || len(t.denied) == 0 {
		return root, err
	}
	f, err := root.Open(".")
	if err == nil {
		err = t.reaches(f, path)
		f.Close()
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

func (t tree) stat(path string, follow bool) (fs.FileInfo, error) {
	switch {
	case t.root == nil && follow:
		return os.Stat(path)
	case t.root == nil:
		return os.Lstat(path)
	case follow:
		return t.root.Stat(in(path))
	}
	return t.root.Lstat(in(path))
}

func (t tree) readlink(path string) (string, error) {
	if t.root != nil {
		return t.root.Readlink(in(path))
	}
	return os.Readlink(path)
}

func (t tree) mkdir(path string, mode fs.FileMode, parents bool) error {
	switch {
	case t.root == nil && parents:
		return os.MkdirAll(path, mode)
	case t.root == nil:
		return os.Mkdir(path, mode)
	case parents:
		return t.root.MkdirAll(in(path), mode.Perm())
	}
	err := t.root.Mkdir(in(path), mode.Perm())
	if err == nil && mode != mode.Perm() {
		err = t.root.Chmod(in(path), mode)
	}
	return err
}

func (t tree) remove(path string, recursive bool) error {
	switch {
	case t.root == nil && recursive:
		return os.RemoveAll(path)
	case t.root == nil:
		return os.Remove(path)
	case recursive:
		return t.root.RemoveAll(in(path))
	}
	return t.root.Remove(in(path))
}

func (t tree) rename(from, to string, noReplace bool) error {
	switch {
	case t.root == nil && !noReplace:
		return os.Rename(from, to)
	case t.root == nil:
		return renameNoReplace(unix.AT_FDCWD, from, unix.AT_FDCWD, to)
	case !noReplace:
		return t.root.Rename(in(from), in(to))
	}
	fromDir, fromName, err := t.parent(from)
	if err != nil {
		return err
	}
	defer fromDir.Close()
	toDir, toName, err := t.parent(to)
	if err != nil {
		return err
	}
	defer toDir.Close()
	return renameNoReplace(int(fromDir.Fd()), fromName, int(toDir.Fd()), toName)
}

func renameNoReplace(fromDir int, from string, toDir int, to string) error {
	if err := unix.Renameat2(fromDir, from, toDir, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (t tree) chmod(path string, mode fs.FileMode) error {
	if t.root != nil {
		return t.root.Chmod(in(path), mode)
	}
	return os.Chmod(path, mode)
}

func (t tree) chown(path string, uid, gid int, follow bool) error {
	switch {
	case t.root == nil && follow:
		return os.Chown(path, uid, gid)
	case t.root == nil:
		return os.Lchown(path, uid, gid)
	case follow:
		return t.root.Chown(in(path), uid, gid)
	}
	return t.root.Lchown(in(path), uid, gid)
}

// chtimes sets the times; a zero time stays as it is.
func (t tree) chtimes(path string, accessed, modified time.Time, follow bool) error {
	dir, name, flags := unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW
	switch {
	case t.root == nil && follow:
		flags = 0
	case t.root != nil:
		if follow {
			path = archive.Follow(t.root, path)
		}
		f, base, err := t.parent(path)
		if errors.Is(err, syscall.EINVAL) { // a directory by a name such as "/"
			base = "."
			f, err = t.root.OpenFile(in(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		dir, name = int(f.Fd()), base
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	for i, at := range []time.Time{accessed, modified} {
		if !at.IsZero() {
			spec, err := unix.TimeToTimespec(at)
			if err != nil {
				return &fs.PathError{Op: "chtimes", Path: path, Err: err}
			}
			times[i] = spec
		}
	}
	if err := unix.UtimesNanoAt(dir, name, times, flags); err != nil {
		return &fs.PathError{Op: "chtimes", Path: path, Err: err}
	}
	return nil
}

func (t tree) truncate(path string, size int64) error {
	f, err := t.open(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

func (t tree) link(path, target string, hard bool) error {
	switch {
	case t.root == nil && hard:
		return os.Link(target, path)
	case t.root == nil:
		return os.Symlink(target, path)
	case hard:
		return t.root.Link(in(target), in(path))
	}
	return t.root.Symlink(target, in(path))
}
