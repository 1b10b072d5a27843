package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/internal/pinned"
	"github.com/vsockrpc/vsockrpc/internal/archive"
)

// Confinement is what a call can reach: everything, until Confine or Deny is called.
// It is for code that decides about calls by their paths: what is decided on a path is no
// longer true when the path is used, if somebody exchanges a directory for a link in
// between. What is beneath an open directory stays beneath it.
type Confinement struct {
	dirs   atomic.Pointer[[]string]
	denied atomic.Pointer[[]string]
}

type confinementKey struct{}

// WithConfinement returns a context for a call, and its confinement.
func WithConfinement(ctx context.Context) (context.Context, *Confinement) {
	c := new(Confinement)
	return context.WithValue(ctx, confinementKey{}, c), c
}

// Confine confines the call to what is beneath one of dirs, which are clean and
// absolute. It has to be called before the handler has received its first message.
// Links that lead out of the directory are refused, and so are absolute ones. Links
// that lead to the directory are followed where only root can have put them.
func (c *Confinement) Confine(dirs []string) { c.dirs.Store(&dirs) }

// Deny keeps the call away from paths, which are clean and absolute, and from what
// is beneath them: a call that goes through a directory leaves them out and says so,
// and a file that turns out to be one of them when it is open is not read or
// written. It has to be called before the handler has received its first message.
func (c *Confinement) Deny(paths []string) { c.denied.Store(&paths) }

// confine returns the tree that the call of ctx can reach, which is about the path
// p. The caller must release it.
func (t tree) confine(ctx context.Context, p []byte) (tree, error) {
	c, _ := ctx.Value(confinementKey{}).(*Confinement)
	if c == nil {
		return t, nil
	}
	if denied := c.denied.Load(); denied != nil {
		t.denied = *denied
	}
	if c.dirs.Load() == nil {
		return t, nil
	}
	clean := path.Clean(string(p))
	base := ""
	for _, dir := range *c.dirs.Load() {
		if dir == "/" {
			return t, nil // everything is beneath it
		}
		if below(dir, clean) && len(dir) > len(base) {
			base = dir
		}
	}
	if base == "" {
		return t, outside(clean)
	}
	root, err := t.openBase(base)
	if base == clean && errors.Is(err, syscall.ENOTDIR) {
		t.only = path.Base(base) // of a rule that names a file
		base = path.Dir(base)
		root, err = t.openBase(base)
	}
	if err != nil {
		return t, err
	}
	t.root, t.base = root, base
	return t, nil
}

// openBase opens a directory that a call is confined to.
func (t tree) openBase(dir string) (*os.Root, error) {
	var from *os.File
	if t.root != nil {
		var err error
		if from, err = t.root.Open("."); err != nil {
			return nil, err
		}
		defer from.Close()
	}
	f, err := pinned.Open(from, dir, true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	root, err := os.OpenRoot(pinned.Proc(f))
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = &fs.PathError{Op: "open", Path: dir, Err: pe.Err}
	}
	return root, err
}

// denies returns what leaves denied files out, and all but the only one that the call
// may have; nil if it may have all.
func (t tree) denies() archive.Denied {
	if len(t.denied) == 0 && t.only == "" {
		return nil
	}
	return func(real string) bool {
		if t.only != "" && path.Base(real) != t.only {
			return true
		}
		if t.service != nil {
			// Paths of the policy begin at the service's root.
			prefix, err := pinned.Path(t.service)
			if err != nil || !below(prefix, real) {
				return true
			}
			real = "/" + strings.TrimLeft(strings.TrimPrefix(real, prefix), "/")
		}
		return slices.ContainsFunc(t.denied, func(dir string) bool { return dir == "/" || below(dir, real) })
	}
}

// reaches reports, by an error, that a file which was opened is denied, or is not
// the only one that the call may have.
func (t tree) reaches(f *os.File, asked string) error {
	if len(t.denied) == 0 && t.only == "" {
		return nil
	}
	real, err := pinned.Path(f)
	if err != nil {
		return err
	}
	if t.only != "" && path.Base(real) != t.only {
		return &fs.PathError{Op: "open", Path: asked, Err: syscall.ELOOP}
	}
	if denies := t.denies(); denies != nil && denies(real) {
		return archive.Denial(asked)
	}
	return nil
}

// release gives back what confine has opened.
func (t tree) release() {
	if t.base != "" { // otherwise the root is the service's
		t.root.Close()
	}
}

// inside returns a path of a request, which begins with the directory that t is
// confined to, as one beneath it.
func (t tree) inside(p string) (string, error) {
	clean := path.Clean(p)
	if !below(t.base, clean) {
		return "", outside(clean)
	}
	return "/" + strings.TrimLeft(strings.TrimPrefix(clean, t.base), "/"), nil
}

func below(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimRight(dir, "/")+"/")
}

func outside(p string) error {
	return fault.New(codes.PermissionDenied, reasonNotPermitted, "%s is beneath none of the directories that this caller may use with one call", p).
		Hint("name paths beneath one directory of the policy in each call")
}
