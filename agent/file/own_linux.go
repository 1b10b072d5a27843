package file

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent/internal/pinned"
)

// A thread that acts as a user is one of the agent's to /proc. The kernel lets it
// through the links of /proc/self/fd, past all directories that the user may not enter,
// and has it read what only the agent's own threads may.

// noMagic returns an error if a path leads through such a link, or ends in one.
func noMagic(path string) error {
	err := tryMagic(path, 0)
	if err != unix.ELOOP {
		return nil // no such link; what else is wrong is told by what is to be done
	}
	if err = tryMagic(path, unix.O_NOFOLLOW); err == nil {
		return nil // a common link, which leads in a circle
	}
	return &fs.PathError{Op: "open", Path: path, Err: unix.EACCES}
}

// tryMagic opens a path without such links, and returns ELOOP if it has some.
func tryMagic(path string, flags uint64) error {
	fd, err := openNoMagic(path, unix.O_PATH|flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if flags != 0 && unix.Fstatfs(fd, &st) == nil && st.Type == unix.PROC_SUPER_MAGIC {
		return unix.ELOOP
	}
	return nil
}

func openNoMagic(path string, flags, mode uint64) (int, error) {
	for {
		fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: unix.RESOLVE_NO_MAGICLINKS})
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// openAsOther is os.OpenFile for a thread that acts as another user than the agent's.
func openAsOther(path string, flags int, mode fs.FileMode) (*os.File, error) {
	if flags&os.O_CREATE == 0 {
		mode = 0 // as openat2(2) wants it
	}
	if flags&unix.O_PATH != 0 {
		flags &= unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW // all others mean nothing then, and are refused
	}
	fd, err := openNoMagic(path, uint64(flags), uint64(sysMode(mode)))
	if errors.Is(err, unix.ENOSYS) {
		return os.OpenFile(path, flags, mode)
	}
	if err == unix.ELOOP && noMagic(path) != nil {
		err = unix.EACCES
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if isAgents(f) {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.EACCES}
	}
	return f, nil
}

// isAgents reports whether a file is one of the agent's own in /proc.
func isAgents(f *os.File) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return false
	}
	real, err := pinned.Path(f)
	return err != nil || strings.Contains(real+"/", "/"+strconv.Itoa(os.Getpid())+"/")
}

// sysMode returns a mode as system calls want it.
func sysMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if m&b.mode != 0 {
			bits |= b.bit
		}
	}
	return bits
}
