package archive

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Source is a file or directory to send.
type Source struct {
	Path string // as this system has it
	// Contents sends what is in a directory, and not the directory itself.
	Contents bool
	// Reader, if not nil, is what the file has, read once and to its end; Path is what
	// errors call it then, and Mode its permissions.
	Reader io.Reader
	Mode   fs.FileMode
}

// item is a file that the walk has come to.
type item struct {
	entry  *guestv1.Entry
	info   fs.FileInfo
	open   func() (*os.File, error)
	path   string     // for errors
	reader io.Reader  // of a source that has one, instead of open
	in     *directory // what open needs; nil: nothing
}

// walker goes through the sources in the order of the protocol.
type walker struct {
	ctx     context.Context
	sources []Source
	root    *os.Root // what bounds the sources, or nil
	archive bool
	follow  bool
	after   *guestv1.Position
	names   Names
	denied  Denied
	exclude [][]byte // patterns

	visit func(*item) error                               // an error ends the walk
	fail  func(source int, path string, f *Failure) error // one file cannot be read

	linked map[[2]uint64]*guestv1.Position // files with several names
}

// Names looks up the names of users and groups. Either may be nil.
type Names struct {
	User, Group func(id uint32) string
}

func (w *walker) walk() error {
	w.linked = make(map[[2]uint64]*guestv1.Position)
	start := 0
	if w.after != nil {
		start = int(w.after.GetSource())
	}
	for i := start; i < len(w.sources); i++ {
		if err := w.source(i); err != nil {
			return err
		}
	}
	return nil
}

// directory is a directory of the walk.
type directory struct {
	root  *os.Root
	path  string // for errors, and to follow links with
	real  string // without links; empty if nothing is denied
	above *directory
	info  fs.FileInfo
	refs  int // the walk, and items that wait for a decision
}

func (d *directory) release() {
	if d.refs--; d.refs == 0 {
		d.root.Close()
	}
}

// source walks one source.
func (w *walker) source(n int) error {
	src := w.sources[n]
	if src.Reader != nil {
		e := &guestv1.Entry{Source: uint32(n), Mode: LinuxMode(src.Mode.Perm())}
		setModified(e, time.Now())
		return w.visit(&item{entry: e, path: src.Path, reader: src.Reader})
	}
	var after []string
	skipping := false
	if w.after != nil && int(w.after.GetSource()) == n {
		skipping = true
		if len(w.after.GetPath()) > 0 {
			after = strings.Split(string(w.after.GetPath()), "/")
		}
	}
	follow := w.follow || src.Contents || strings.HasSuffix(src.Path, "/")
	info, err := w.statSource(src.Path, follow)
	if err != nil {
		return w.fail(n, "", failed("stat", src.Path, err))
	}
	if src.Contents && !info.IsDir() {
		return w.fail(n, "", failed("open", src.Path, &fs.PathError{Op: "open", Path: src.Path, Err: syscall.ENOTDIR}))
	}
	it := &item{entry: w.entry(n, "", info), info: info, path: src.Path}
	if info.Mode().Type() == fs.ModeSymlink {
		target, err := w.readlinkSource(src.Path)
		if err != nil {
			return w.fail(n, "", failed("readlink", src.Path, err))
		}
		it.entry.LinkTarget = []byte(target)
	}
	flags := openFlags
	if follow {
		flags = followFlags
	}
	it.open = func() (*os.File, error) {
		if w.root != nil {
			return w.denied.opened(w.root.OpenFile(InRoot(src.Path), os.O_RDONLY|flags, 0))
		}
		return w.denied.opened(os.OpenFile(src.Path, os.O_RDONLY|flags, 0))
	}
	if !info.IsDir() {
		if skipping {
			return nil
		}
		return w.visit(it)
	}
	var root *os.Root
	if w.root != nil {
		root, err = w.root.OpenRoot(InRoot(src.Path) + asDir)
	} else {
		root, err = os.OpenRoot(src.Path + asDir)
	}
	if err != nil {
		return w.fail(n, "", failed("open", src.Path, err))
	}
	d := &directory{root: root, path: src.Path, info: info, refs: 1}
	defer d.release()
	if d.real, err = w.denied.directory(root, src.Path); err != nil {
		return w.fail(n, "", failed("open", src.Path, err))
	}
	// A directory is sent again for what is below it that was not sent before.
	if err := w.visit(it); err != nil {
		return err
	}
	return w.directory(n, d, "", after, skipping && len(after) > 0)
}

func (w *walker) statSource(path string, follow bool) (fs.FileInfo, error) {
	switch {
	case w.root == nil && follow:
		return os.Stat(path)
	case w.root == nil:
		return os.Lstat(path)
	case follow:
		return w.root.Stat(InRoot(path))
	}
	return w.root.Lstat(InRoot(path))
}

func (w *walker) readlinkSource(path string) (string, error) {
	if w.root != nil {
		return w.root.Readlink(InRoot(path))
	}
	return os.Readlink(path)
}

// asDir, behind a path, has os.OpenRoot open it only if it is a directory. The last
// element it would open as whatever it is, and wait for the other end of a FIFO that
// somebody has put there.
const asDir = "/."

// InRoot returns an absolute path as one beneath an os.Root. What ".." in it means
// is the root's to say.
func InRoot(path string) string {
	if path = strings.TrimLeft(path, "/"); path == "" {
		return "."
	}
	return path
}

// Follow returns what a path, if it is a symbolic link, leads to beneath the root.
// One that leads out, or in a circle, comes back as a path that the root refuses.
func Follow(root *os.Root, path string) string {
	const most = 40 // as many as Linux follows
	for range most {
		target, err := root.Readlink(InRoot(path))
		if err != nil || target == "" || target[0] == '/' {
			break
		}
		path = path[:strings.LastIndexByte(path, '/')+1] + target
	}
	return path
}

// directory walks what is in d, whose entries have paths below prefix. If skip
// is set, what comes before after, and that itself, was sent before.
func (w *walker) directory(n int, d *directory, prefix string, after []string, skip bool) error {
	names, err := readNames(d.root)
	if err != nil {
		return w.fail(n, prefix, failed("read directory", d.path, err))
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		inAfter := false // name leads to after
		done := false
		if skip && len(after) > 0 {
			switch c := strings.Compare(name, after[0]); {
			case c < 0 && !w.archive:
				continue
			case c < 0:
				done = true
			case c == 0:
				inAfter, done = true, len(after) == 1
			}
		}
		if isTempName(name) || w.excludes(joinPath(prefix, name), name) {
			continue
		}
		rest := after
		if inAfter {
			rest = after[1:]
		}
		if err := w.file(n, d, joinPath(prefix, name), name, rest, inAfter, done); err != nil {
			return err
		}
	}
	return nil
}

// file walks one file of d. If done is set it was sent before; if inAfter is set
// what is below it was, up to after.
func (w *walker) file(n int, d *directory, path, name string, after []string, inAfter, done bool) error {
	full := filepath.Join(d.path, name)
	if w.denied != nil && w.denied(joinPath(d.real, name)) {
		return w.fail(n, path, failed("open", full, Denial(full)))
	}
	follow := w.follow
	stat := d.root.Lstat
	if follow {
		// Where a link leads is the sender's to say: beyond the source too.
		stat = func(string) (fs.FileInfo, error) { return w.statSource(full, true) }
	}
	info, err := stat(name)
	if err != nil && follow {
		info, err = d.root.Lstat(name) // a link to nothing stays one
	}
	if err != nil {
		// Gone since the directory was read, perhaps.
		return w.fail(n, path, failed("stat", full, err))
	}
	e := w.entry(n, path, info)
	if info.Mode().IsRegular() && w.archive {
		w.shareLink(e, info)
	}
	it := &item{entry: e, info: info, path: full, in: d}
	it.open = func() (*os.File, error) {
		if follow && w.root == nil {
			return w.denied.opened(os.OpenFile(full, os.O_RDONLY|followFlags, 0))
		} else if follow {
			return w.denied.opened(w.root.OpenFile(InRoot(full), os.O_RDONLY|followFlags, 0))
		}
		return d.root.OpenFile(name, os.O_RDONLY|openFlags, 0)
	}
	switch {
	case info.IsDir():
		return w.below(n, d, it, path, name, after, inAfter, done)
	case done:
		return nil
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := d.root.Readlink(name)
		if err != nil {
			return w.fail(n, path, failed("readlink", full, err))
		}
		e.LinkTarget = []byte(target)
	}
	return w.visit(it)
}

// shareLink makes e a hard link if the file was met under another name.
func (w *walker) shareLink(e *guestv1.Entry, info fs.FileInfo) {
	sys := sysOf(info)
	if sys.links < 2 {
		return
	}
	key := [2]uint64{sys.device, sys.number}
	if first := w.linked[key]; first != nil {
		e.HardLink = first
	} else {
		w.linked[key] = &guestv1.Position{Source: e.Source, Path: e.Path}
	}
}

// below walks a directory of d.
func (w *walker) below(n int, d *directory, it *item, path, name string, after []string, inAfter, done bool) error {
	if done && !inAfter {
		if !w.archive {
			return nil
		}
	} else if err := w.visit(it); err != nil {
		return err
	}
	for a := d; a != nil && w.follow; a = a.above {
		if os.SameFile(a.info, it.info) {
			return w.fail(n, path, newFailure("open", it.path, codes.FailedPrecondition, ReasonLinkLoop, "a link leads to a directory above itself"))
		}
	}
	var root *os.Root
	var err error
	switch {
	case w.follow && w.root == nil:
		root, err = os.OpenRoot(it.path + asDir)
	case w.follow:
		root, err = w.root.OpenRoot(InRoot(it.path) + asDir)
	default:
		root, err = d.root.OpenRoot(name + asDir)
	}
	if err != nil {
		return w.fail(n, path, failed("open", it.path, err))
	}
	sub := &directory{root: root, path: it.path, above: d, info: it.info, refs: 1}
	defer sub.release()
	if sub.real, err = w.denied.directory(root, it.path); err != nil {
		return w.fail(n, path, failed("open", it.path, err))
	}
	if done && !inAfter {
		return w.linksBelow(n, sub, path)
	}
	// If after is this directory itself, nothing below was sent.
	return w.directory(n, sub, path, after, inAfter && len(after) > 0)
}

// linksBelow notes the files with several names below a directory that was sent
// before.
func (w *walker) linksBelow(n int, d *directory, prefix string) error {
	names, err := readNames(d.root)
	if err != nil {
		return nil // it was told when it was sent
	}
	for _, name := range names {
		if w.excludes(joinPath(prefix, name), name) {
			continue
		}
		real := joinPath(d.real, name)
		if w.denied != nil && w.denied(real) {
			continue
		}
		info, err := d.root.Lstat(name)
		if err != nil {
			continue
		}
		path := joinPath(prefix, name)
		switch {
		case info.Mode().IsRegular():
			w.shareLink(&guestv1.Entry{Source: uint32(n), Path: []byte(path)}, info)
		case info.IsDir():
			root, err := d.root.OpenRoot(name + asDir)
			if err != nil {
				continue
			}
			err = w.linksBelow(n, &directory{root: root, real: real}, path)
			root.Close()
			if err != nil {
				return err
			}
		}
	}
	return w.ctx.Err()
}

// entry describes a file.
func (w *walker) entry(n int, path string, info fs.FileInfo) *guestv1.Entry {
	e := &guestv1.Entry{Source: uint32(n), Path: []byte(path), Mode: LinuxMode(info.Mode())}
	setModified(e, info.ModTime())
	if info.Mode().IsRegular() {
		e.Size = uint64(info.Size())
	}
	if w.archive {
		sys := sysOf(info)
		e.Uid, e.Gid = sys.uid, sys.gid
		if w.names.User != nil {
			e.User = []byte(w.names.User(sys.uid))
		}
		if w.names.Group != nil {
			e.Group = []byte(w.names.Group(sys.gid))
		}
	}
	return e
}

// excludes reports whether a file is left out, by its path below the source and its name.
func (w *walker) excludes(below, name string) bool { return Excludes(w.exclude, below, name) }

// Excludes reports whether one of the patterns, those of TransferOptions, matches a file.
func Excludes(patterns [][]byte, below, name string) bool {
	return slices.ContainsFunc(patterns, func(p []byte) bool {
		what, pattern := name, string(p)
		if strings.Contains(pattern, "/") {
			what, pattern = below, strings.TrimPrefix(pattern, "/")
		}
		is, err := path.Match(pattern, what)
		return err == nil && is
	})
}

// readNames returns the names in a directory in the order of their bytes.
func readNames(root *os.Root) ([]string, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

func joinPath(prefix, name string) string {
	if prefix == "" || strings.HasSuffix(prefix, "/") {
		return prefix + name
	}
	return prefix + "/" + name
}
