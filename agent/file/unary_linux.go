package file

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Stat describes one file.
func (s *Server) Stat(ctx context.Context, r *guestv1.StatRequest) (*guestv1.StatResponse, error) {
	m := &guestv1.StatResponse{}
	err := s.with(ctx, "stat", r.Subject, r.Path, func(t tree, path string) error {
		info, err := t.stat(path, r.Follow)
		if err != nil {
			return err
		}
		n := names{s: s}
		m.File = n.fileInfo(info.Name(), info)
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := t.readlink(path)
			m.File.LinkTarget = []byte(target)
			return err
		}
		return nil
	})
	return m, err
}

// ReadLink returns the target of a symbolic link.
func (s *Server) ReadLink(ctx context.Context, r *guestv1.ReadLinkRequest) (*guestv1.ReadLinkResponse, error) {
	m := &guestv1.ReadLinkResponse{}
	err := s.with(ctx, "readlink", r.Subject, r.Path, func(t tree, path string) error {
		target, err := t.readlink(path)
		m.Target = []byte(target)
		return err
	})
	return m, err
}

// MakeDirectory makes a directory.
func (s *Server) MakeDirectory(ctx context.Context, r *guestv1.MakeDirectoryRequest) (*guestv1.MakeDirectoryResponse, error) {
	mode := fs.FileMode(0o777)
	if r.Mode != 0 {
		mode = archive.FileMode(r.Mode & 0o7777)
	}
	return &guestv1.MakeDirectoryResponse{}, s.with(ctx, "mkdir", r.Subject, r.Path, func(t tree, path string) error {
		return t.mkdir(path, mode, r.Parents)
	})
}

// RemoveFile removes a file or a directory.
func (s *Server) RemoveFile(ctx context.Context, r *guestv1.RemoveFileRequest) (*guestv1.RemoveFileResponse, error) {
	return &guestv1.RemoveFileResponse{}, s.with(ctx, "remove", r.Subject, r.Path, func(t tree, path string) error {
		if r.Recursive {
			switch name := strings.TrimRight(path, "/"); {
			case strings.Trim(path, "/.") == "":
				return fault.New(codes.InvalidArgument, reasonNotPermitted, "remove %s: not the root directory", path)
			case strings.HasSuffix(name, "/.") || strings.HasSuffix(name, "/.."):
				// What it names may be the root directory, or where someone is.
				return &fs.PathError{Op: "remove", Path: path, Err: syscall.EINVAL}
			}
			// RemoveAll is content with a file that is missing; we are if asked.
			if _, err := t.stat(path, false); err != nil && !(r.MissingOk && errors.Is(err, fs.ErrNotExist)) {
				return err
			}
		}
		err := t.remove(path, r.Recursive)
		if r.MissingOk && errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return err
	})
}

// Rename renames a file.
func (s *Server) Rename(ctx context.Context, r *guestv1.RenameRequest) (*guestv1.RenameResponse, error) {
	return &guestv1.RenameResponse{}, s.with(ctx, "rename", r.Subject, r.Path, func(t tree, path string) error {
		to, err := t.path(r.NewPath)
		if err != nil {
			return err
		}
		return t.rename(path, to, r.NoReplace)
	})
}

// SetAttributes changes what is given.
func (s *Server) SetAttributes(ctx context.Context, r *guestv1.SetAttributesRequest) (*guestv1.SetAttributesResponse, error) {
	uid, gid := -1, -1
	if r.User != nil {
		id, err := s.accounts.UserID(string(r.User))
		if err != nil {
			return nil, accountFault(err)
		}
		uid = int(id)
	}
	if r.Group != nil {
		id, err := s.accounts.GroupID(string(r.Group))
		if err != nil {
			return nil, accountFault(err)
		}
		gid = int(id)
	}
	return &guestv1.SetAttributesResponse{}, s.with(ctx, "set attributes of", r.Subject, r.Path, func(t tree, path string) error {
		info, err := t.stat(path, r.Follow)
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 && (r.Mode != nil || r.Size != nil) {
			return &fs.PathError{Op: "chmod", Path: path, Err: syscall.EOPNOTSUPP}
		}
		if uid >= 0 || gid >= 0 {
			err = t.chown(path, uid, gid, r.Follow)
		}
		if err == nil && r.Size != nil {
			if info.IsDir() || !info.Mode().IsRegular() {
				return specialFault("truncate", r.Path, info.Mode())
			}
			err = t.truncate(path, int64(min(*r.Size, 1<<63-1)))
		}
		if err == nil && r.Mode != nil {
			err = t.chmod(path, archive.FileMode(*r.Mode&0o7777))
		}
		if err == nil && (r.ModifiedUnixNanos != nil || r.AccessedUnixNanos != nil) {
			var accessed, modified time.Time
			if r.ModifiedUnixNanos != nil {
				modified = archive.TimeOf(*r.ModifiedUnixNanos, r.ModifiedUnixSeconds)
			}
			if r.AccessedUnixNanos != nil {
				accessed = archive.TimeOf(*r.AccessedUnixNanos, r.AccessedUnixSeconds)
			}
			err = t.chtimes(path, accessed, modified, r.Follow)
		}
		return err
	})
}

// MakeLink makes a symbolic or a hard link.
func (s *Server) MakeLink(ctx context.Context, r *guestv1.MakeLinkRequest) (*guestv1.MakeLinkResponse, error) {
	return &guestv1.MakeLinkResponse{}, s.with(ctx, "link", r.Subject, r.Path, func(t tree, path string) error {
		target := string(r.Target)
		if r.Hard {
			var err error
			if target, err = t.path(r.Target); err != nil {
				return err
			}
		} else if len(target) == 0 || strings.ContainsRune(target, 0) {
			return &fs.PathError{Op: "symlink", Path: path, Err: syscall.EINVAL}
		}
		return t.link(path, target, r.Hard)
	})
}

// MakeTemporary makes a file or directory with a new name.
func (s *Server) MakeTemporary(ctx context.Context, r *guestv1.MakeTemporaryRequest) (*guestv1.MakeTemporaryResponse, error) {
	dir := r.Directory
	if len(dir) == 0 {
		dir = []byte("/tmp")
	}
	m := &guestv1.MakeTemporaryResponse{}
	err := s.with(ctx, "mktemp", r.Subject, dir, func(t tree, path string) error {
		if strings.ContainsAny(string(r.Pattern), "/\x00") {
			return &fs.PathError{Op: "mktemp", Path: string(r.Pattern), Err: syscall.EINVAL}
		}
		prefix, suffix := string(r.Pattern), ""
		if i := strings.LastIndexByte(prefix, '*'); i >= 0 {
			prefix, suffix = prefix[:i], prefix[i+1:]
		}
		for try := 0; ; try++ {
			name := strings.TrimRight(path, "/") + "/" + prefix + randomName() + suffix
			var err error
			if r.MakeDirectory {
				err = t.mkdir(name, 0o700, false)
			} else {
				var f *os.File
				if f, err = t.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
					err = f.Close()
				}
			}
			if !errors.Is(err, fs.ErrExist) || try == 100 {
				m.Path = []byte(t.base + name)
				return err
			}
		}
	})
	return m, err
}

// Hash returns the SHA-256 of a part of a file.
func (s *Server) Hash(ctx context.Context, r *guestv1.HashRequest) (*guestv1.HashResponse, error) {
	m := &guestv1.HashResponse{}
	err := s.with(ctx, "hash", r.Subject, r.Path, func(t tree, path string) error {
		f, _, err := openRegular(t, "hash", r.Path, path)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := eachPiece(ctx, f, r.Offset, r.Length, func(_ uint64, data []byte) error {
			sum.Write(data)
			return nil
		})
		m.Length, m.Sha256 = n, sum.Sum(nil)
		return err
	})
	return m, err
}

// openRegular opens a regular file to read it.
func openRegular(t tree, op string, asked []byte, path string) (*os.File, fs.FileInfo, error) {
	// Before the open, which may do something to a device.
	if info, err := t.stat(path, true); err == nil && !info.Mode().IsRegular() {
		return nil, nil, specialFault(op, asked, info.Mode())
	}
	f, err := t.open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = specialFault(op, asked, info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// eachPiece reads f from offset on, for length bytes or, if that is 0, to its
// end, and returns how much that was.
func eachPiece(ctx context.Context, f *os.File, offset, length uint64, use func(offset uint64, data []byte) error) (uint64, error) {
	buf := make([]byte, archive.PieceBytes)
	var sum uint64
	for length == 0 || sum < length {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		want := uint64(len(buf))
		if length > 0 {
			want = min(want, length-sum)
		}
		if offset+sum > 1<<63-1 {
			return sum, nil
		}
		n, err := f.ReadAt(buf[:want], int64(offset+sum))
		if n > 0 {
			if err := use(offset+sum, buf[:n]); err != nil {
				return sum, err
			}
			sum += uint64(n)
		}
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}
