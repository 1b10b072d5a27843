package file

import (
	"bufio"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	"github.com/vsockrpc/vsockrpc/internal/mountinfo"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// DiskFree describes a file system.
func (s *Server) DiskFree(ctx context.Context, r *guestv1.DiskFreeRequest) (*guestv1.DiskFreeResponse, error) {
	m := &guestv1.DiskFreeResponse{}
	err := s.with(ctx, "df", r.Subject, r.Path, func(t tree, path string) error {
		var fsInfo unix.Statfs_t
		var st unix.Stat_t
		if t.root != nil {
			// There O_PATH opens a link, and does not follow it.
			if _, err := t.stat(path, true); err != nil {
				return err
			}
			path = archive.Follow(t.root, path)
		}
		f, err := t.open(path, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Fstatfs(int(f.Fd()), &fsInfo); err != nil {
			return err
		}
		block := uint64(fsInfo.Frsize)
		if block == 0 {
			block = uint64(fsInfo.Bsize)
		}
		m.TotalBytes, m.FreeBytes, m.AvailableBytes = fsInfo.Blocks*block, fsInfo.Bfree*block, fsInfo.Bavail*block
		m.TotalFiles, m.FreeFiles = fsInfo.Files, fsInfo.Ffree
		m.ReadOnly = fsInfo.Flags&unix.ST_RDONLY != 0
		m.Type, m.MaxNameBytes = uint64(fsInfo.Type), uint64(fsInfo.Namelen)
		if unix.Fstat(int(f.Fd()), &st) == nil {
			mountOf(st.Dev, m)
		}
		return nil
	})
	return m, err
}

// mountOf fills in where a device is mounted. A device with several mounts has
// the shortest told.
func mountOf(device uint64, m *guestv1.DiskFreeResponse) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return // it is only told where it can be
	}
	defer f.Close()
	id := strconv.FormatUint(uint64(unix.Major(device)), 10) + ":" + strconv.FormatUint(uint64(unix.Minor(device)), 10)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(rest) < 2 || fields[2] != id {
			continue
		}
		if point := mountinfo.Unescape(fields[4]); len(m.MountPoint) == 0 || len(point) < len(m.MountPoint) {
			m.MountPoint, m.TypeName, m.Source = []byte(point), []byte(rest[0]), []byte(mountinfo.Unescape(rest[1]))
		}
	}
}

// Linux's bounds (limits.h).
const (
	xattrListMax = 64 << 10
	xattrSizeMax = 64 << 10
)

// withXattrs calls f with the three calls for a file. In a confined tree they
// work on an open file, so that no link leads them astray.
func withXattrs(t tree, path string, follow bool, f func(x xattrCalls) error) error {
	if t.root == nil && follow {
		return f(xattrCalls{
			list:   func(b []byte) (int, error) { return unix.Listxattr(path, b) },
			get:    func(name string, b []byte) (int, error) { return unix.Getxattr(path, name, b) },
			set:    func(name string, v []byte) error { return unix.Setxattr(path, name, v, 0) },
			remove: func(name string) error { return unix.Removexattr(path, name) },
		})
	}
	if t.root == nil {
		return f(xattrCalls{
			list:   func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
			get:    func(name string, b []byte) (int, error) { return unix.Lgetxattr(path, name, b) },
			set:    func(name string, v []byte) error { return unix.Lsetxattr(path, name, v, 0) },
			remove: func(name string) error { return unix.Lremovexattr(path, name) },
		})
	}
	flags := 0
	if !follow {
		flags = unix.O_NOFOLLOW
	}
	file, err := t.open(path, os.O_RDONLY|flags, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	fd := int(file.Fd())
	return f(xattrCalls{
		list:   func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		get:    func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) },
		set:    func(name string, v []byte) error { return unix.Fsetxattr(fd, name, v, 0) },
		remove: func(name string) error { return unix.Fremovexattr(fd, name) },
	})
}

type xattrCalls struct {
	list   func(b []byte) (int, error)
	get    func(name string, b []byte) (int, error)
	set    func(name string, value []byte) error
	remove func(name string) error
}

// ListXattrs returns the extended attributes of a file.
func (s *Server) ListXattrs(ctx context.Context, r *guestv1.ListXattrsRequest) (*guestv1.ListXattrsResponse, error) {
	m := &guestv1.ListXattrsResponse{}
	err := s.with(ctx, "listxattr", r.Subject, r.Path, func(t tree, path string) error {
		return withXattrs(t, path, r.Follow, func(x xattrCalls) error {
			buf := make([]byte, xattrListMax)
			n, err := x.list(buf)
			if err != nil {
				return err
			}
			list := strings.FieldsFunc(string(buf[:n]), func(c rune) bool { return c == 0 })
			slices.Sort(list)
			value := make([]byte, xattrSizeMax)
			for _, name := range list {
				n, err := x.get(name, value)
				if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
					continue // gone since, or not for this user
				}
				if err != nil {
					return err
				}
				m.Xattrs = append(m.Xattrs, &guestv1.Xattr{Name: []byte(name), Value: slices.Clone(value[:n])})
			}
			return nil
		})
	})
	return m, err
}

// SetXattr sets or removes an extended attribute.
func (s *Server) SetXattr(ctx context.Context, r *guestv1.SetXattrRequest) (*guestv1.SetXattrResponse, error) {
	return &guestv1.SetXattrResponse{}, s.with(ctx, "setxattr", r.Subject, r.Path, func(t tree, path string) error {
		if strings.ContainsRune(string(r.Name), 0) {
			return unix.EINVAL
		}
		return withXattrs(t, path, r.Follow, func(x xattrCalls) error {
			if r.Value == nil {
				return x.remove(string(r.Name))
			}
			return x.set(string(r.Name), r.Value)
		})
	})
}
