package subject

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxGround bounds a path that is looked at, in bytes: each of its directories is
// looked up from the root on.
const maxGround = 512

// maxLinks bounds the symbolic links of a path, as the kernel does.
const maxLinks = 40

// ErrReachable says that users of the guest may reach into what a path leads
// through.
var ErrReachable = errors.New("users of the guest may reach into it")

// Ground returns nil if nobody but root and this process's own user can make an
// open of path wait, or lead it elsewhere: everything that its names lead through,
// up to and with what it names, belongs to one of them, and is in directories that
// nobody else may write (or only as in /tmp, where each may rename only what is
// their own) and in no file system that a user has mounted. What it names is a
// directory or a regular file. A group that is root's, or has the number of the
// owner, is nobody else.
//
// The error is fs.ErrNotExist if there is no such path, as far as only they decide;
// of all else, such as a path that is not absolute, or long, it is ErrReachable. No file
// system is asked that a user could have mounted.
func Ground(path string) error {
	g := ground{own: uint32(os.Geteuid())}
	return g.walk(path)
}

type ground struct {
	own   uint32
	links int
	dev   uint64 // the last that was found to be nobody's
}

// walk looks at path one name at a time, from the root on, so that a name is
// looked up only in what is trusted already.
func (g *ground) walk(path string) error {
	if path == "" || path[0] != '/' || len(path) > maxGround {
		return ErrReachable
	}
	var st unix.Statx_t
	if err := g.look("/", &st); err != nil {
		return err
	}
	for end := 1; end < len(path); {
		if path[end] == '/' {
			end++
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR || othersWrite(&st) && (st.Mode&unix.S_ISVTX == 0 || end == 1) {
			return ErrReachable
		}
		start := end
		if i := strings.IndexByte(path[start:], '/'); i >= 0 {
			end = start + i
		} else {
			end = len(path)
		}
		if path[start:end] == ".." {
			return ErrReachable // where that leads depends on links
		}
		if err := g.look(path[:end], &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return g.follow(path[:start], path[:end], path[end:])
		}
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return ErrReachable
	}
	return nil
}

func othersWrite(st *unix.Statx_t) bool {
	return st.Mode&0o002 != 0 || st.Mode&0o020 != 0 && st.Gid != 0 && st.Gid != st.Uid
}

// follow goes on where a link leads.
func (g *ground) follow(dir, link, rest string) error {
	if g.links++; g.links > maxLinks {
		return ErrReachable
	}
	target, err := os.Readlink(link)
	if err != nil {
		return ErrReachable
	}
	if !strings.HasPrefix(target, "/") {
		// As /lib64 and /etc/alternatives have it. dir has no links.
		for strings.HasPrefix(target, "../") {
			dir, target = strings.TrimRight(dir, "/"), target[3:]
			dir = dir[:strings.LastIndexByte(dir, '/')+1]
		}
		target = "/" + dir + target
	}
	return g.walk(target + rest)
}

// look is statx(2) of a name in a trusted directory, with what the kernel knows
// already, so that the server of a file system that is mounted there is not asked.
// What is there has to belong to root or this process's user, and be in no file
// system of a user's.
func (g *ground) look(path string, st *unix.Statx_t) error {
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
	const mask = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_UID | unix.STATX_GID
	for {
		err := unix.Statx(unix.AT_FDCWD, path, flags, mask, st)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, fs.ErrNotExist):
			return fs.ErrNotExist
		case err != nil || st.Uid != 0 && st.Uid != g.own:
			return ErrReachable
		}
		break
	}
	dev := unix.Mkdev(st.Dev_major, st.Dev_minor)
	if g.dev == dev || st.Dev_major != 0 {
		return nil // FUSE has no major number, but for fuseblk, which root mounts
	}
	if path != "/" && mountedByUser(dev) {
		return ErrReachable
	}
	g.dev = dev
	return nil
}

// mountedByUser reports whether a device without a major number is a file system
// that another user than root has mounted, or none that is known.
func mountedByUser(dev uint64) bool {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return true
	}
	id := strconv.FormatUint(uint64(unix.Major(dev)), 10) + ":" + strconv.FormatUint(uint64(unix.Minor(dev)), 10)
	for line := range bytes.Lines(text) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		before, after, ok := strings.Cut(string(line), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(rest) < 3 || fields[2] != id {
			continue
		}
		return strings.HasPrefix(rest[0], "fuse") && !strings.Contains(","+rest[2]+",", ",user_id=0,")
	}
	return true
}
