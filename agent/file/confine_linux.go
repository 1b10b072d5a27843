package file

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
)

// Confinement is what a call can reach: everything, until Confine is called. It is
// for who decides about calls by their paths: what is decided on a path is no longer
// true when the path is used, if somebody exchanges a directory for a link in
// between. What is beneath an open directory stays beneath it.
type Confinement struct{ dirs atomic.Pointer[[]string] }

type confinementKey struct{}

// WithConfinement returns a context for a call, and its confinement.
func WithConfinement(ctx context.Context) (context.Context, *Confinement) {
	c := new(Confinement)
	return context.WithValue(ctx, confinementKey{}, c), c
}

// Confine confines the call to what is beneath one of dirs, which are clean and
// absolute. It has to be called before the handler has received its first message.
// Links that lead out of the directory are refused, and so are absolute ones.
func (c *Confinement) Confine(dirs []string) { c.dirs.Store(&dirs) }

// confine returns the tree that the call of ctx can reach, which is about the path
// p. The caller must release it.
func (t tree) confine(ctx context.Context, p []byte) (tree, error) {
	c, _ := ctx.Value(confinementKey{}).(*Confinement)
	if c == nil || c.dirs.Load() == nil {
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
	open := os.OpenRoot
	if t.root != nil {
		open = func(dir string) (*os.Root, error) { return t.root.OpenRoot(in(dir)) }
	}
	root, err := open(base)
	if base == clean && errors.Is(err, syscall.ENOTDIR) {
		base = path.Dir(base) // of a rule that names a file
		root, err = open(base)
	}
	if err != nil {
		return t, err
	}
	return tree{root: root, base: base, home: t.home}, nil
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
