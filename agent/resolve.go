//go:build linux

package agent

import (
	"context"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent/internal/subject"
	"github.com/vsockrpc/vsockrpc/agent/policy"
)

// maxLinks is how many symbolic links a path may lead through: Linux's own.
const maxLinks = 40

// resolve is resolveIn, but waits for a file system of a user's for some seconds only,
// or until ctx ends.
func resolve(ctx context.Context, root, path string) (string, error) {
	return subject.Open(ctx, filepath.Join(root, path), func() (string, error) { return resolveIn(root, path) })
}

// resolveIn follows the symbolic links of a clean, absolute path beneath a directory
// that is its /, as far as it exists: each name is looked up once, in the directory
// before it. Of a link to nowhere it returns where a file would be that is made
// through it.
func resolveIn(root, path string) (string, error) {
	if len(path) > policy.MaxPath {
		return "", unix.ENAMETOOLONG
	}
	const flags = unix.O_PATH | unix.O_NOFOLLOW
	start := flags&^unix.O_NOFOLLOW | unix.O_CLOEXEC
	dir, err := unix.Open(root, start|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { unix.Close(dir) }()
	var real []string // the names up to dir
	links := 0
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." && len(real) == 0 {
			continue
		}
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			return "/" + filepath.Join(append(real, name, rest)...), nil
		}
		if err != nil {
			return "", err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return "", err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			unix.Close(dir)
			dir = fd
			if name != ".." {
				real = append(real, name)
			} else {
				real = real[:len(real)-1]
			}
			continue
		}
		target, err := readLink(fd)
		unix.Close(fd)
		if links++; err == nil && links > maxLinks {
			err = unix.ELOOP
		}
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(target, "/") {
			unix.Close(dir)
			if dir, err = unix.Open(root, start|unix.O_CLOEXEC, 0); err != nil {
				return "", err
			}
			real = nil
		}
		rest = target + "/" + rest
	}
	return "/" + filepath.Join(real...), nil
}

// readLink returns where the symbolic link that is open as fd leads.
func readLink(fd int) (string, error) {
	buf := make([]byte, policy.MaxPath)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// worldOf is the guest as the decision about one call sees it: a path is resolved
// once, and none after ctx has ended.
func (g *guard) worldOf(ctx context.Context) policy.World {
	w := g.world
	if w.Resolve == nil {
		// The paths of files begin at the root of the file service, if it has one.
		w.Resolve = resolver(ctx, g.filesRoot)
	}
	w.Dir = resolver(ctx, "/")
	return w
}

// resolver returns resolve, which looks up no path twice.
func resolver(ctx context.Context, root string) func(path string) (string, error) {
	type answer struct {
		real string
		err  error
	}
	known := make(map[string]answer)
	return func(path string) (string, error) {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		a, ok := known[path]
		if !ok {
			a.real, a.err = resolve(ctx, root, path)
			known[path] = a
		}
		return a.real, a.err
	}
}
