package guest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"unicode/utf8"

	"github.com/vsockrpc/vsockrpc/internal/archive"
)

// FS returns the tree of files below a directory of the guest, to read. It is an
// fs.ReadDirFS, fs.StatFS, fs.ReadFileFS and fs.ReadLinkFS. All that is done with
// it ends with ctx.
//
// Package io/fs has no names that are not UTF-8: files with such a name are left
// out of directories, and asking for one is fs.ErrInvalid. Files has them.
// Symbolic links are followed by the guest, also to what is not below dir.
func (g *Guest) FS(ctx context.Context, dir string) fs.FS { return g.Files().FS(ctx, dir) }

// FS is Guest.FS as the user of f.
func (f *Files) FS(ctx context.Context, dir string) fs.FS { return &fileSystem{ctx, f, dir} }

type fileSystem struct {
	ctx   context.Context
	files *Files
	dir   string
}

var (
	_ fs.ReadDirFS  = (*fileSystem)(nil)
	_ fs.StatFS     = (*fileSystem)(nil)
	_ fs.ReadFileFS = (*fileSystem)(nil)
	_ fs.ReadLinkFS = (*fileSystem)(nil)
)

// path returns the guest's path of name.
func (s *fileSystem) path(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		return s.dir, nil
	}
	return path.Join(s.dir, name), nil
}

func (s *fileSystem) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open implements fs.FS.
func (s *fileSystem) Open(name string) (fs.File, error) {
	p, err := s.path("open", name)
	if err != nil {
		return nil, err
	}
	info, err := s.files.Stat(s.ctx, p)
	if err != nil {
		return nil, s.fail("open", name, err)
	}
	info.name = path.Base(name)
	if info.IsDir() {
		return &openDir{s: s, name: name, info: info}, nil
	}
	f, err := s.files.Open(s.ctx, p)
	if err != nil {
		return nil, s.fail("open", name, err)
	}
	f.info.name = info.name
	return f, nil
}

// Stat implements fs.StatFS.
func (s *fileSystem) Stat(name string) (fs.FileInfo, error) { return s.stat("stat", name, true) }

// Lstat implements fs.ReadLinkFS.
func (s *fileSystem) Lstat(name string) (fs.FileInfo, error) { return s.stat("lstat", name, false) }

func (s *fileSystem) stat(op, name string, follow bool) (fs.FileInfo, error) {
	p, err := s.path(op, name)
	if err != nil {
		return nil, err
	}
	info, err := s.files.stat(s.ctx, p, follow)
	if err != nil {
		return nil, s.fail(op, name, err)
	}
	info.name = path.Base(name)
	return info, nil
}

// ReadLink implements fs.ReadLinkFS.
func (s *fileSystem) ReadLink(name string) (string, error) {
	p, err := s.path("readlink", name)
	if err != nil {
		return "", err
	}
	target, err := s.files.ReadLink(s.ctx, p)
	return target, s.fail("readlink", name, err)
}

// ReadFile implements fs.ReadFileFS.
func (s *fileSystem) ReadFile(name string) ([]byte, error) {
	p, err := s.path("open", name)
	if err != nil {
		return nil, err
	}
	data, err := s.files.ReadFile(s.ctx, p, 0)
	return data, s.fail("open", name, err)
}

// ReadDir implements fs.ReadDirFS.
func (s *fileSystem) ReadDir(name string) ([]fs.DirEntry, error) {
	p, err := s.path("open", name)
	if err != nil {
		return nil, err
	}
	entries := []fs.DirEntry{}
	for info, err := range s.files.List(s.ctx, p, nil) {
		if err != nil {
			return entries, s.fail("readdir", name, err)
		}
		if info.Path() == "" {
			return nil, s.fail("readdir", name, errNotDirectory)
		}
		if utf8.ValidString(info.Name()) && fs.ValidPath(info.Name()) {
			entries = append(entries, info)
		}
	}
	// The guest says that they are; nobody else is to rely on it.
	slices.SortFunc(entries, func(a, b fs.DirEntry) int {
		switch {
		case a.Name() < b.Name():
			return -1
		case a.Name() > b.Name():
			return 1
		}
		return 0
	})
	return entries, nil
}

var errNotDirectory = errors.New(archive.ReasonNotDirectory)

// openDir is an fs.ReadDirFile.
type openDir struct {
	s       *fileSystem
	name    string
	info    FileInfo
	entries []fs.DirEntry // nil: not read yet
}

var _ fs.ReadDirFile = (*openDir)(nil)

// Stat implements fs.File.
func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }

// Read implements fs.File.
func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errors.New(archive.ReasonIsDirectory)}
}

// Close implements fs.File.
func (d *openDir) Close() error { return nil }

// ReadDir implements fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.entries == nil {
		entries, err := d.s.ReadDir(d.name)
		if err != nil {
			return nil, err
		}
		d.entries = entries
	}
	if n <= 0 {
		all := d.entries
		d.entries = d.entries[len(all):]
		return all, nil
	}
	if len(d.entries) == 0 {
		return nil, io.EOF
	}
	next := d.entries[:min(n, len(d.entries))]
	d.entries = d.entries[len(next):]
	return next, nil
}
