package guest

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/archive"
)

// maxExclude bounds the patterns of one copy.
const maxExclude = 1000

// checked returns the options, never nil, if they go together.
func (o *CopyOptions) checked() (*CopyOptions, error) {
	if o == nil {
		return &CopyOptions{}, nil
	}
	switch {
	case o.InPlace && o.Archive:
		return nil, fmt.Errorf("copy: InPlace does not go with Archive, which is to give files another owner and mode")
	case o.Delete && o.Follow:
		return nil, fmt.Errorf("copy: Delete does not go with Follow")
	case len(o.Exclude) > maxExclude:
		return nil, fmt.Errorf("copy: %d patterns to exclude, which may be %d", len(o.Exclude), maxExclude)
	}
	for _, p := range o.Exclude {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return nil, fmt.Errorf("copy: exclude %q: not a pattern of path.Match", p)
		}
	}
	return o, nil
}

// openPipe opens a source that is a pipe, or a link to one, to be read to its end. It
// refuses what else a link of /proc, such as /dev/stdin, leads to but files and
// directories.
func (c *copying) openPipe(s archive.Source) (archive.Source, error) {
	if s.Contents {
		return s, nil
	}
	info, err := os.Stat(s.Path)
	if err != nil {
		return s, nil // it is told when its turn comes
	}
	switch {
	case info.Mode().Type() == fs.ModeNamedPipe:
		f, err := os.Open(s.Path)
		if err != nil {
			return s, fmt.Errorf("copy: %w", err)
		}
		c.once = true
		s.Reader, s.Mode = f, info.Mode().Perm()
	case info.Mode().IsRegular() && throughProc(s.Path):
		// As data: a link to a file that is open means nothing elsewhere.
		f, err := os.Open(s.Path)
		if err != nil {
			return s, fmt.Errorf("copy: %w", err)
		}
		c.once = true
		s.Reader, s.Mode = f, info.Mode().Perm()
	case !info.IsDir() && !info.Mode().IsRegular() && throughProc(s.Path):
		return s, &archive.Failure{Op: "open", Path: s.Path, Code: codes.FailedPrecondition, Reason: archive.ReasonSpecial,
			Text: "open " + s.Path + ": it is a terminal, a device or a socket", Remedy: "pass its data on through a pipe, or with host-ctl write"}
	}
	return s, nil
}

// throughProc reports whether a path is a link that leads to, or through, a link of
// /proc to an open file.
func throughProc(name string) bool {
	const most = 40 // as many links as Linux follows
	for range most {
		dir, err := filepath.EvalSymlinks(filepath.Dir(name))
		if err != nil {
			return false
		}
		if strings.HasPrefix(dir, "/proc/") {
			return true
		}
		target, err := os.Readlink(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			return false
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		name = target
	}
	return false
}
