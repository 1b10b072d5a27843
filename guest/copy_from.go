package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// splitSource returns a source and its name at the destination, which is empty
// for the contents of a directory.
func splitSource(s string, base func(string) string, abs func(string) (string, error)) (archive.Source, string, error) {
	if s == "" {
		return archive.Source{}, "", errors.New("copy: a source without a name")
	}
	src := archive.Source{Path: s}
	trimmed := strings.TrimRight(s, "/")
	if trimmed == "" || s == "." || strings.HasSuffix(trimmed, "/.") {
		// The root directory has no name: it is copied as what is in it.
		src.Contents = true
	}
	full, err := abs(s)
	if err != nil {
		return archive.Source{}, "", fmt.Errorf("copy %s: %w", s, err)
	}
	if src.Contents {
		src.Path = full
		return src, "", nil
	}
	name := base(trimmed)
	if name == ".." {
		name = base(full)
	}
	if name == "." || name == ".." || name == "/" || name == string(filepath.Separator) {
		src.Contents, src.Path = true, full
		return src, "", nil
	}
	if trimmed != s {
		full += "/" // a link to a directory is followed
	}
	src.Path = full
	return src, name, nil
}

// openSources makes files of the guest the sources of a transfer, and returns their
// names at the destination.
func openSources(open *guestv1.DownloadOpen, sources []string) (names []string, err error) {
	for _, s := range sources {
		source, name, err := splitSource(s, path.Base, func(p string) (string, error) { return p, nil })
		if err != nil {
			return nil, err
		}
		open.Sources = append(open.Sources, &guestv1.Source{Path: []byte(source.Path), Contents: source.Contents})
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, errors.New("copy: no sources")
	}
	return names, nil
}

// CopyFrom copies files of the guest to this machine. Destination and sources
// are as in CopyTo.
//
// The guest is not trusted. Nothing is written but beneath the destination, and
// nothing is made but directories, files, hard links to files beneath the
// destination, and symbolic links, which must lead to something beneath it
// unless CopyOptions.OutsideLinks is set. Owners are kept only if Archive is set
// and this process is root; extended attributes only of the namespace "user".
func (f *Files) CopyFrom(ctx context.Context, sources []string, destination string, opts *CopyOptions) (*CopyResult, error) {
	opts, err := opts.checked()
	if err != nil {
		return &CopyResult{}, err
	}
	c := &copying{files: f, opts: opts}
	full, err := filepath.Abs(destination)
	if err != nil {
		return &CopyResult{}, fmt.Errorf("copy to %s: %w", destination, err)
	}
	if strings.HasSuffix(destination, "/") || strings.HasSuffix(destination, "/.") {
		full += "/"
	}
	words := append([]string{"from", f.g.target, f.User, f.Group, full}, opts.words()...)
	open := &guestv1.DownloadOpen{Subject: f.subject(), Options: opts.message()}
	names, err := openSources(open, sources)
	if err != nil {
		return &CopyResult{}, err
	}
	id := transferID(append(words, sources...)...)
	open.TransferId = id[:]
	method := guestv1.FileService_Download_FullMethodName
	list := make([]archive.Source, len(open.Sources))
	for i, s := range open.Sources {
		list[i] = archive.Source{Path: string(s.Path), Contents: s.Contents}
	}
	mirrored := c.mirror(ctx, f, thisMachine{}, list, names, full)
	result, err := c.run(ctx, method, func(ctx context.Context, resume bool, after *guestv1.Position) (*guestv1.Finished, error) {
		dst, names, err := c.destination(full, names, filepath.Split, func(name string) error {
			_, err := os.Stat(name)
			return err
		})
		if err != nil {
			return nil, err
		}
		st, err := f.g.conn.NewStream(ctx, &copyDesc, method)
		if err != nil {
			return nil, err
		}
		open.Resume, open.After = resume, after
		_ = st.SendMsg(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Open{Open: open}})
		return archive.Receive(pacedReceive{st, c.pace()}, &archive.ReceiveConfig{
			Transfer: id, Destination: dst, Names: names, Options: open.Options, Resume: resume, Skip: opts.Resume, Memory: &c.memory, Attempt: c.tries(),
			OutsideLinks: opts.OutsideLinks, Owner: hostOwner(opts), Xattr: userXattr,
			FoldNames:  runtime.GOOS == "darwin" || runtime.GOOS == "windows",
			MaxEntries: opts.MaxEntries, MaxBytes: opts.MaxBytes, OnDone: c.done,
		})
	})
	if err == nil {
		err = c.deleteOthers(ctx, f, thisMachine{}, mirrored, result)
	}
	return result, err
}

// maxAccountName bounds the names of users and groups that are looked up, as Linux's
// useradd does. Of others the numbers count.
const maxAccountName = 256

// hostOwner returns who is to own a file here: by name where this machine has
// it, otherwise by number.
func hostOwner(opts *CopyOptions) func(e *guestv1.Entry) (uid, gid int) {
	if !opts.Archive || os.Geteuid() != 0 {
		return nil
	}
	users, groups := make(map[string]int), make(map[string]int)
	find := func(cache map[string]int, name string, number uint32, lookup func(string) (string, error)) int {
		if name == "" || len(name) > maxAccountName {
			return int(number)
		}
		id, ok := cache[name]
		if !ok {
			id = -1
			if s, err := lookup(name); err == nil {
				if n, err := strconv.ParseUint(s, 10, 32); err == nil {
					id = int(n)
				}
			}
			if len(cache) < 10_000 {
				cache[name] = id
			}
		}
		if id < 0 {
			return int(number)
		}
		return id
	}
	return func(e *guestv1.Entry) (int, int) {
		return find(users, string(e.User), e.Uid, func(name string) (string, error) {
				u, err := user.Lookup(name)
				if err != nil {
					return "", err
				}
				return u.Uid, nil
			}), find(groups, string(e.Group), e.Gid, func(name string) (string, error) {
				g, err := user.LookupGroup(name)
				if err != nil {
					return "", err
				}
				return g.Gid, nil
			})
	}
}
