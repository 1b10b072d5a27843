package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/archive"
)

// maxGlobbed bounds the names that one pattern stands for.
const maxGlobbed = 100_000

// Glob returns the names of files that match a pattern, whose elements are those of
// path.Match, in the order of their bytes; none is no error. As in a shell, an element
// that does not begin with a dot matches no name that does. Directories that cannot be
// read have nothing that matches.
func (f *Files) Glob(ctx context.Context, pattern string) ([]string, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	begin, rest := "", pattern
	if rest = strings.TrimLeft(pattern, "/"); rest != pattern {
		begin = "/"
	}
	found := []string{begin}
	for _, element := range strings.FieldsFunc(rest, func(r rune) bool { return r == '/' }) {
		var next []string
		for _, dir := range found {
			names, err := f.globIn(ctx, dir, element)
			if err != nil {
				return nil, err
			}
			if next = append(next, names...); len(next) > maxGlobbed {
				return nil, f.g.newError("glob", codes.ResourceExhausted, archive.ReasonTooMany, fmt.Sprintf("%s: more than %d names", pattern, maxGlobbed))
			}
		}
		found = next
	}
	slices.Sort(found)
	return found, nil
}

// globIn returns the files of a directory whose names match an element of a pattern.
func (f *Files) globIn(ctx context.Context, dir, element string) ([]string, error) {
	if !HasGlob(element) {
		name := dir + element
		if dir != "" && !strings.HasSuffix(dir, "/") {
			name = dir + "/" + element
		}
		if _, err := f.Lstat(ctx, name); err != nil {
			return nil, ignoreMissing(err)
		}
		return []string{name}, nil
	}
	in := dir
	if in == "" {
		in = "."
	}
	var names []string
	for info, err := range f.List(ctx, in, &ListOptions{Brief: true}) {
		if err != nil {
			return names, ignoreMissing(err)
		}
		name := info.Name()
		if info.Path() == "" || strings.HasPrefix(name, ".") && !strings.HasPrefix(element, ".") {
			continue
		}
		if is, _ := path.Match(element, name); is {
			if dir != "" && !strings.HasSuffix(dir, "/") {
				name = "/" + name
			}
			if names = append(names, dir+name); len(names) > maxGlobbed {
				return names, nil // which the caller refuses
			}
		}
	}
	return names, nil
}

// HasGlob reports whether a name is a pattern: it has a character that path.Match takes
// for more than itself.
func HasGlob(name string) bool { return strings.ContainsAny(name, `*?[\`) }

// ignoreMissing returns an error unless it says that there is nothing to list, or nothing
// that this user may.
func ignoreMissing(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == archive.ReasonNotDirectory || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
