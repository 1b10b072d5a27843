package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/archive"
)

// place is a machine's files, as far as Delete needs them.
type place interface {
	// isDir reports whether a name is one of a directory, also by a link.
	isDir(ctx context.Context, name string) bool
	// below yields the paths of all files below a directory, each directory before
	// what is in it. An error is the last.
	below(ctx context.Context, dir string) iter.Seq2[string, error]
	// deleteBelow removes what a path below a directory names, with all in it or, if
	// that is not asked for, only if nothing is in it.
	deleteBelow(ctx context.Context, dir, below string, all bool) error
}

var (
	_ place = thisMachine{}
	_ place = (*Files)(nil)
)

// thisMachine are the files of this machine.
type thisMachine struct{}

func (thisMachine) isDir(_ context.Context, name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func (thisMachine) below(ctx context.Context, dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil && name != "." && !yield(name, nil) {
				return fs.SkipAll
			}
			return err
		})
		if err != nil {
			yield("", err)
		}
	}
}

func (thisMachine) deleteBelow(_ context.Context, dir, below string, all bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if !all {
		return root.Remove(filepath.FromSlash(below))
	}
	return root.RemoveAll(filepath.FromSlash(below))
}

func (f *Files) isDir(ctx context.Context, name string) bool {
	info, err := f.Stat(ctx, name)
	return err == nil && info.IsDir()
}

func (f *Files) below(ctx context.Context, dir string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for info, err := range f.List(ctx, dir, &ListOptions{Brief: true, Depth: 1 << 20}) {
			if !yield(info.Path(), err) || err != nil {
				return
			}
		}
	}
}

func (f *Files) deleteBelow(ctx context.Context, dir, below string, all bool) error {
	name := strings.TrimRight(dir, "/") + "/" + below
	if !all {
		return f.Remove(ctx, name)
	}
	return f.RemoveAll(ctx, name)
}

// isNotEmpty reports whether a directory was not removed because something is in it.
func isNotEmpty(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason == archive.ReasonNotEmpty
	}
	return errors.Is(err, syscall.ENOTEMPTY)
}

func btoi(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// mirrored is a directory of the destination that is to have no more than one of the
// sources.
type mirrored struct{ from, to string }

// mirror returns what Delete looks at after the copy, and whether that is as it looks
// before it.
func (c *copying) mirror(ctx context.Context, from, to place, sources []archive.Source, names []string, dest string) []mirrored {
	if !c.opts.Delete {
		return nil
	}
	into := len(sources) > 1 || strings.HasSuffix(dest, "/") || to.isDir(ctx, dest)
	var all []mirrored
	for i, s := range sources {
		m := mirrored{s.Path, dest}
		if names[i] != "" && into {
			m.to = strings.TrimRight(dest, "/") + "/" + names[i]
		}
		if s.Reader == nil && from.isDir(ctx, s.Path) {
			all = append(all, m)
		}
	}
	return all
}

// deleteOthers removes from the destination what the sources lack.
func (c *copying) deleteOthers(ctx context.Context, from, to place, all []mirrored, result *CopyResult) error {
	exclude := toBytes(c.opts.Exclude)
	for _, m := range all {
		// A source of several directories of one destination is no other's extra.
		have := make(map[string]bool)
		for _, other := range all {
			if other.to != m.to {
				continue
			}
			for name, err := range from.below(ctx, other.from) {
				if err != nil {
					return fmt.Errorf("nothing is deleted from %s: %w", m.to, err)
				}
				if have[name] = true; len(have) > archive.DefaultMaxEntries {
					return c.files.g.newError("copy", codes.ResourceExhausted, archive.ReasonTooMany, "too many files to delete others")
				}
			}
		}
		var extra []string
		under := "\x00" // a directory that is removed, or left out
		for name, err := range to.below(ctx, m.to) {
			switch {
			case err != nil:
				return fmt.Errorf("nothing is deleted from %s: %w", m.to, err)
			case strings.HasPrefix(name, under+"/") || have[name]:
			case archive.Excludes(exclude, name, path.Base(name)):
				under = name
			default:
				if len(exclude) == 0 {
					under = name // it goes with all in it
				}
				extra = append(extra, name)
			}
		}
		// What is in a directory before that, which stays if something excluded is in it.
		for _, name := range slices.Backward(extra) {
			err := to.deleteBelow(ctx, m.to, name, len(exclude) == 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !isNotEmpty(err) {
				return fmt.Errorf("delete %s of %s: %w", name, m.to, err)
			}
			result.Deleted += btoi(err == nil)
		}
	}
	return nil
}
