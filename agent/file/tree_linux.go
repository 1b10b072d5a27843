package file

import (
	"bytes"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tree is the files that a call can reach: those beneath root, or all.
type tree struct {
	root *os.Root // nil: all
	home string   // what relative paths begin at
}

// path returns a path of a request as this tree's methods want it.
func (t tree) path(p []byte) (string, error) {
	if len(p) == 0 {
		return "", &fs.PathError{Op: "resolve", Path: "", Err: syscall.ENOENT}
	}
	if bytes.IndexByte(p, 0) >= 0 {
		return "", &fs.PathError{Op: "resolve", Path: string(p), Err: syscall.EINVAL}
	}
	path := string(p)
	if path[0] != '/' {
		path = strings.TrimRight(t.home, "/") + "/" + path
	}
	return path, nil
}

// in returns an absolute path as one beneath the root.
func in(path string) string {
	if path = strings.TrimLeft(path, "/"); path == "" {
		return "."
	}
	return path
}

// open never waits for the other end of a FIFO.
func (t tree) open(path string, flags int, mode fs.FileMode) (*os.File, error) {
	flags |= unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	if t.root != nil {
		return t.root.OpenFile(in(path), flags, mode)
	}
	return os.OpenFile(path, flags, mode)
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
		return t.root.MkdirAll(in(path), mode)
	}
	return t.root.Mkdir(in(path), mode)
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
	if t.root == nil && noReplace {
		if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
		return nil
	}
	if noReplace {
		if _, err := t.root.Lstat(in(to)); err == nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.EEXIST}
		}
	}
	if t.root != nil {
		return t.root.Rename(in(from), in(to))
	}
	return os.Rename(from, to)
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
	if t.root != nil {
		return t.root.Chtimes(in(path), accessed, modified)
	}
	if follow {
		return os.Chtimes(path, accessed, modified)
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	for i, at := range []time.Time{accessed, modified} {
		if !at.IsZero() {
			times[i] = unix.NsecToTimespec(at.UnixNano())
		}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
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
