package guest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Files is what a user of the guest can do with its files. It may be used
// concurrently as long as its fields are not changed.
//
// Paths are the guest's, with slashes; one that is not absolute begins at the
// user's home directory. Names may hold any byte but a slash and a zero. An
// error that comes from the guest's kernel satisfies errors.Is with fs.ErrNotExist,
// fs.ErrExist and fs.ErrPermission, and on Linux with the syscall.Errno.
type Files struct {
	// User and Group to act as, each a name or a number; empty for the agent's
	// own user, and the user's group.
	User, Group string

	g *Guest
}

// Files returns the files as the user that the configuration file gives for the
// guest.
func (g *Guest) Files() *Files { return &Files{User: g.user, g: g} }

func (f *Files) subject() *guestv1.Subject {
	return &guestv1.Subject{User: []byte(f.User), Group: []byte(f.Group)}
}

func (f *Files) client() guestv1.FileServiceClient { return guestv1.NewFileServiceClient(f.g.conn) }

// unary makes a call, and its error one of this package's.
func unary[Q, R any](f *Files, ctx context.Context, op, method string, request *Q) (*R, error) {
	return call[Q, R](ctx, f.g, op, method, request)
}

// FileInfo is what the guest says of a file: an fs.FileInfo and fs.DirEntry whose
// Sys is the *guestv1.FileInfo.
type FileInfo struct {
	name string
	m    *guestv1.FileInfo
}

var (
	_ fs.FileInfo = FileInfo{}
	_ fs.DirEntry = FileInfo{}
)

func newFileInfo(name string, m *guestv1.FileInfo) FileInfo {
	if m == nil {
		m = &guestv1.FileInfo{}
	}
	return FileInfo{name, m}
}

// Name returns the last element of the path; it may hold any character.
func (i FileInfo) Name() string { return i.name }

// Size returns the size in bytes.
func (i FileInfo) Size() int64 { return int64(min(i.m.Size, 1<<63-1)) }

// Mode returns the type and the permissions.
func (i FileInfo) Mode() fs.FileMode { return archive.FileMode(i.m.Mode) }

// ModTime returns when the contents were last changed.
func (i FileInfo) ModTime() time.Time {
	return archive.TimeOf(i.m.ModifiedUnixNanos, i.m.ModifiedUnixSeconds)
}

// IsDir reports whether it is a directory.
func (i FileInfo) IsDir() bool { return i.Mode().IsDir() }

// Sys returns all that the guest said, a *guestv1.FileInfo.
func (i FileInfo) Sys() any { return i.m }

// Type returns the type.
func (i FileInfo) Type() fs.FileMode { return i.Mode().Type() }

// Info returns i.
func (i FileInfo) Info() (fs.FileInfo, error) { return i, nil }

// String returns a line for people.
func (i FileInfo) String() string { return fs.FormatFileInfo(i) }

// Path returns the path below the directory that was listed.
func (i FileInfo) Path() string { return string(i.m.Path) }

// Stat describes what name, or a link that it is, leads to.
func (f *Files) Stat(ctx context.Context, name string) (FileInfo, error) {
	return f.stat(ctx, name, true)
}

// Lstat describes name itself.
func (f *Files) Lstat(ctx context.Context, name string) (FileInfo, error) {
	return f.stat(ctx, name, false)
}

func (f *Files) stat(ctx context.Context, name string, follow bool) (FileInfo, error) {
	m, err := unary[guestv1.StatRequest, guestv1.StatResponse](f, ctx, "stat", guestv1.FileService_Stat_FullMethodName,
		&guestv1.StatRequest{Subject: f.subject(), Path: []byte(name), Follow: follow})
	return newFileInfo(path.Base(name), m.GetFile()), err
}

// ReadLink returns where a symbolic link leads.
func (f *Files) ReadLink(ctx context.Context, name string) (string, error) {
	m, err := unary[guestv1.ReadLinkRequest, guestv1.ReadLinkResponse](f, ctx, "readlink", guestv1.FileService_ReadLink_FullMethodName,
		&guestv1.ReadLinkRequest{Subject: f.subject(), Path: []byte(name)})
	return string(m.GetTarget()), err
}

// ListOptions say what List lists.
type ListOptions struct {
	// Depth is how many levels of directories below the first to list too.
	Depth int
	// Brief leaves out what takes longer to find: owners, links, all times but
	// that of modification.
	Brief bool
}

// maxListed bounds a list: no guest has more files that a host wants to hold.
var maxListed = 50_000_000

// List yields what is in a directory, by name, and a directory before what is in
// it; of anything else, that alone, with an empty Path. An error with an empty
// FileInfo beside others is of a directory below that could not be read; any
// other error is the last. A nil opts means the directory alone.
func (f *Files) List(ctx context.Context, name string, opts *ListOptions) iter.Seq2[FileInfo, error] {
	if opts == nil {
		opts = &ListOptions{}
	}
	return func(yield func(FileInfo, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		const method = guestv1.FileService_List_FullMethodName
		fail := func(err error) { yield(newFileInfo("", nil), f.g.wrap("list", method, err)) }
		request := &guestv1.ListRequest{Subject: f.subject(), Path: []byte(name), Depth: uint32(max(opts.Depth, 0)), Brief: opts.Brief}
		st, m, err := openReading(ctx, f.g, "list", method, func(ctx context.Context) (grpc.ServerStreamingClient[guestv1.ListResponse], error) {
			return f.client().List(ctx, request)
		})
		if err != nil {
			fail(err)
			return
		}
		for n := 0; m != nil; {
			if n += len(m.Files) + len(m.Failures) + 1; n > maxListed {
				fail(protocolError("a list of more than %d files", maxListed))
				return
			}
			for _, file := range m.Files {
				if !validListed(string(file.GetPath()), opts.Depth) {
					fail(protocolError("a list with the name %q", file.GetPath()))
					return
				}
				last := path.Base(string(file.GetPath()))
				if len(file.GetPath()) == 0 {
					last = path.Base(name)
				}
				if !yield(newFileInfo(last, file), nil) {
					return
				}
			}
			for _, failure := range m.Failures {
				if !yield(newFileInfo("", nil), f.g.failure("list", failure)) {
					return
				}
			}
			if m, err = st.Recv(); errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				fail(err)
				return
			}
		}
	}
}

// validListed reports whether a list may hold a path: a plain one below the
// directory, at most so many directories down, or an empty one.
func validListed(p string, depth int) bool {
	if p == "" {
		return true
	}
	if len(p) > 1<<16 || strings.IndexByte(p, 0) >= 0 || strings.Count(p, "/") > depth {
		return false
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == "" || name == "." || name == ".." {
			return false
		}
	}
	return true
}

// failure makes an error of what the guest says of one file.
func (g *Guest) failure(op string, m *guestv1.FileFailure) *Error {
	return g.failureError(op, archive.FailureOf(m))
}

func (g *Guest) failureError(op string, f *archive.Failure) *Error {
	return &Error{Op: op, Guest: g.target, Code: f.Code, Reason: f.Reason, Remedy: f.Remedy,
		Operation: f.Op, Path: []byte(f.Path), Errno: f.Errno, message: f.Text}
}

// Mkdir makes a directory; its permissions are those of mode less the agent's
// umask.
func (f *Files) Mkdir(ctx context.Context, name string, mode fs.FileMode) error {
	return f.mkdir(ctx, name, mode, false)
}

// MkdirAll makes a directory and those above it, as far as they are missing.
func (f *Files) MkdirAll(ctx context.Context, name string, mode fs.FileMode) error {
	return f.mkdir(ctx, name, mode, true)
}

func (f *Files) mkdir(ctx context.Context, name string, mode fs.FileMode, parents bool) error {
	_, err := unary[guestv1.MakeDirectoryRequest, guestv1.MakeDirectoryResponse](f, ctx, "mkdir", guestv1.FileService_MakeDirectory_FullMethodName,
		&guestv1.MakeDirectoryRequest{Subject: f.subject(), Path: []byte(name), Mode: archive.LinuxMode(mode) & 0o7777, Parents: parents})
	return err
}

// Remove removes a file or an empty directory.
func (f *Files) Remove(ctx context.Context, name string) error {
	return f.remove(ctx, &guestv1.RemoveFileRequest{Path: []byte(name)})
}

// RemoveAll removes a file, or a directory with all in it. That there is nothing
// is no error.
func (f *Files) RemoveAll(ctx context.Context, name string) error {
	return f.remove(ctx, &guestv1.RemoveFileRequest{Path: []byte(name), Recursive: true, MissingOk: true})
}

func (f *Files) remove(ctx context.Context, r *guestv1.RemoveFileRequest) error {
	r.Subject = f.subject()
	_, err := unary[guestv1.RemoveFileRequest, guestv1.RemoveFileResponse](f, ctx, "rm", guestv1.FileService_RemoveFile_FullMethodName, r)
	return err
}

// Rename renames a file, and replaces one that has the new name.
func (f *Files) Rename(ctx context.Context, from, to string) error {
	_, err := unary[guestv1.RenameRequest, guestv1.RenameResponse](f, ctx, "mv", guestv1.FileService_Rename_FullMethodName,
		&guestv1.RenameRequest{Subject: f.subject(), Path: []byte(from), NewPath: []byte(to)})
	return err
}

func (f *Files) setAttributes(ctx context.Context, op string, r *guestv1.SetAttributesRequest) error {
	r.Subject = f.subject()
	_, err := unary[guestv1.SetAttributesRequest, guestv1.SetAttributesResponse](f, ctx, op, guestv1.FileService_SetAttributes_FullMethodName, r)
	return err
}

// Chmod sets the permissions, set-user-id and the like among them.
func (f *Files) Chmod(ctx context.Context, name string, mode fs.FileMode) error {
	return f.setAttributes(ctx, "chmod", &guestv1.SetAttributesRequest{Path: []byte(name), Follow: true, Mode: proto.Uint32(archive.LinuxMode(mode) & 0o7777)})
}

// Chown sets the owner and the group, each a name or a number; empty: unchanged.
// Of a symbolic link it sets that of what it leads to.
func (f *Files) Chown(ctx context.Context, name, user, group string) error {
	return f.chown(ctx, name, user, group, true)
}

// Lchown is Chown, but of a symbolic link it sets that of the link.
func (f *Files) Lchown(ctx context.Context, name, user, group string) error {
	return f.chown(ctx, name, user, group, false)
}

func (f *Files) chown(ctx context.Context, name, user, group string, follow bool) error {
	r := &guestv1.SetAttributesRequest{Path: []byte(name), Follow: follow}
	if user != "" {
		r.User = []byte(user)
	}
	if group != "" {
		r.Group = []byte(group)
	}
	return f.setAttributes(ctx, "chown", r)
}

// Chtimes sets the times of access and modification; a zero time is unchanged.
func (f *Files) Chtimes(ctx context.Context, name string, accessed, modified time.Time) error {
	r := &guestv1.SetAttributesRequest{Path: []byte(name), Follow: true}
	if !accessed.IsZero() {
		nanos, seconds := archive.WireTime(accessed)
		r.AccessedUnixNanos, r.AccessedUnixSeconds = proto.Int64(nanos), seconds
	}
	if !modified.IsZero() {
		nanos, seconds := archive.WireTime(modified)
		r.ModifiedUnixNanos, r.ModifiedUnixSeconds = proto.Int64(nanos), seconds
	}
	return f.setAttributes(ctx, "chtimes", r)
}

// Truncate sets the size.
func (f *Files) Truncate(ctx context.Context, name string, size int64) error {
	return f.setAttributes(ctx, "truncate", &guestv1.SetAttributesRequest{Path: []byte(name), Follow: true, Size: proto.Uint64(uint64(max(size, 0)))})
}

// Symlink makes a symbolic link called name that leads to target.
func (f *Files) Symlink(ctx context.Context, target, name string) error {
	return f.link(ctx, "symlink", target, name, false)
}

// Link gives the file target another name.
func (f *Files) Link(ctx context.Context, target, name string) error {
	return f.link(ctx, "link", target, name, true)
}

func (f *Files) link(ctx context.Context, op, target, name string, hard bool) error {
	_, err := unary[guestv1.MakeLinkRequest, guestv1.MakeLinkResponse](f, ctx, op, guestv1.FileService_MakeLink_FullMethodName,
		&guestv1.MakeLinkRequest{Subject: f.subject(), Path: []byte(name), Target: []byte(target), Hard: hard})
	return err
}

// MkdirTemp makes a new directory with permissions 0700, as CreateTemp makes a file, and
// returns its path.
func (f *Files) MkdirTemp(ctx context.Context, dir, pattern string) (string, error) {
	return f.temporary(ctx, dir, pattern, true)
}

func (f *Files) temporary(ctx context.Context, dir, pattern string, isDir bool) (string, error) {
	m, err := unary[guestv1.MakeTemporaryRequest, guestv1.MakeTemporaryResponse](f, ctx, "mktemp", guestv1.FileService_MakeTemporary_FullMethodName,
		&guestv1.MakeTemporaryRequest{Subject: f.subject(), Directory: []byte(dir), Pattern: []byte(pattern), MakeDirectory: isDir})
	return string(m.GetPath()), err
}

// DiskFree describes the file system that name is on.
func (f *Files) DiskFree(ctx context.Context, name string) (*guestv1.DiskFreeResponse, error) {
	return unary[guestv1.DiskFreeRequest, guestv1.DiskFreeResponse](f, ctx, "df", guestv1.FileService_DiskFree_FullMethodName,
		&guestv1.DiskFreeRequest{Subject: f.subject(), Path: []byte(name)})
}

// DiskUsage sums up what name, with all below it, takes on its disk.
func (f *Files) DiskUsage(ctx context.Context, name string) (*guestv1.DiskUsageResponse, error) {
	return unary[guestv1.DiskUsageRequest, guestv1.DiskUsageResponse](f, ctx, "du", guestv1.FileService_DiskUsage_FullMethodName,
		&guestv1.DiskUsageRequest{Subject: f.subject(), Path: []byte(name)})
}

// Hash returns the SHA-256 of length bytes from offset on, or up to the end if
// length is 0, and how many bytes there were.
func (f *Files) Hash(ctx context.Context, name string, offset, length uint64) (sum [32]byte, n uint64, err error) {
	m, err := unary[guestv1.HashRequest, guestv1.HashResponse](f, ctx, "hash", guestv1.FileService_Hash_FullMethodName,
		&guestv1.HashRequest{Subject: f.subject(), Path: []byte(name), Offset: offset, Length: length})
	if err == nil && len(m.Sha256) != len(sum) {
		err = f.g.wrap("hash", guestv1.FileService_Hash_FullMethodName, protocolError("a SHA-256 of %d bytes", len(m.Sha256)))
	}
	copy(sum[:], m.GetSha256())
	return sum, m.GetLength(), err
}

// Xattrs returns the extended attributes of a file by name.
func (f *Files) Xattrs(ctx context.Context, name string) (map[string][]byte, error) {
	m, err := unary[guestv1.ListXattrsRequest, guestv1.ListXattrsResponse](f, ctx, "listxattr", guestv1.FileService_ListXattrs_FullMethodName,
		&guestv1.ListXattrsRequest{Subject: f.subject(), Path: []byte(name), Follow: true})
	if err != nil {
		return nil, err
	}
	xattrs := make(map[string][]byte)
	for _, x := range m.Xattrs {
		xattrs[string(x.Name)] = x.Value
	}
	return xattrs, nil
}

// SetXattr sets an extended attribute of a file; a nil value removes it.
func (f *Files) SetXattr(ctx context.Context, name, attr string, value []byte) error {
	_, err := unary[guestv1.SetXattrRequest, guestv1.SetXattrResponse](f, ctx, "setxattr", guestv1.FileService_SetXattr_FullMethodName,
		&guestv1.SetXattrRequest{Subject: f.subject(), Path: []byte(name), Follow: true, Name: []byte(attr), Value: value})
	return err
}
