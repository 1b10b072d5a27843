package file

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/agent/internal/pinned"
	"github.com/vsockrpc/vsockrpc/internal/archive"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Bounds of one response with a list.
const (
	listFiles = 256
	listBytes = 48 << 10
)

// List lists a directory.
func (s *Server) List(r *guestv1.ListRequest, st grpc.ServerStreamingServer[guestv1.ListResponse]) error {
	return s.with(st.Context(), "list", r.Subject, r.Path, func(t tree, path string) error {
		l := &lister{ctx: st.Context(), st: st, request: r, names: names{s: s}, next: &guestv1.ListResponse{}}
		if err := l.start(t, path); err != nil {
			return err
		}
		return l.flush()
	})
}

// lister makes a list and sends it in batches.
type lister struct {
	ctx     context.Context
	st      grpc.ServerStreamingServer[guestv1.ListResponse]
	request *guestv1.ListRequest
	names   names
	next    *guestv1.ListResponse
	bytes   int
	left    leftOut
}

// leftOut is what a walk leaves out.
type leftOut struct {
	denies archive.Denied
	real   string // of where the walk begins
}

// leaveOut returns what a walk of a directory, which follows no links, leaves out.
func leaveOut(t tree, root *os.Root) (leftOut, error) {
	l := leftOut{denies: t.denies()}
	if l.denies == nil {
		return l, nil
	}
	f, err := root.Open(".")
	if err != nil {
		return l, err
	}
	defer f.Close()
	l.real, err = pinned.Path(f)
	return l, err
}

// has reports whether a file is left out, by its path below where the walk begins.
func (l leftOut) has(path string) bool {
	return l.denies != nil && l.denies(strings.TrimRight(l.real, "/")+"/"+path)
}

func (l *lister) start(t tree, path string) error {
	info, err := t.stat(path, true)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		target := ""
		if info, err = t.stat(path, false); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			target, err = t.readlink(path)
		}
		if err != nil {
			return err
		}
		return l.add("", info, target)
	}
	root, err := t.openRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	if l.left, err = leaveOut(t, root); err != nil {
		return err
	}
	return l.directory(root, "", l.request.Depth)
}

// directory lists a directory, which is prefix below the first.
func (l *lister) directory(root *os.Root, prefix string, depth uint32) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		path := join(prefix, name)
		if l.left.has(path) {
			l.fail("list", path, archive.Denial(path))
			continue
		}
		info, err := root.Lstat(name)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // otherwise it is gone since
				l.fail("stat", path, err)
			}
			continue
		}
		target := ""
		if info.Mode()&fs.ModeSymlink != 0 && !l.request.Brief {
			target, _ = root.Readlink(name) // unreadable or gone: empty
		}
		if err := l.add(path, info, target); err != nil {
			return err
		}
		if !info.IsDir() || depth == 0 {
			continue
		}
		sub, err := root.OpenRoot(name + asDir)
		if err == nil {
			err = l.directory(sub, path, depth-1)
			sub.Close()
		}
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			l.fail("list", path, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "/" + name
}

func (l *lister) fail(op, path string, err error) {
	l.next.Failures = append(l.next.Failures, archive.FailureMessage(op, path, err))
}

func (l *lister) add(path string, info fs.FileInfo, target string) error {
	var m *guestv1.FileInfo
	if l.request.Brief {
		m = &guestv1.FileInfo{Path: []byte(path), Mode: archive.LinuxMode(info.Mode()), Size: uint64(info.Size())}
		m.ModifiedUnixNanos, m.ModifiedUnixSeconds = archive.WireTime(info.ModTime())
	} else {
		m = l.names.fileInfo(path, info)
		m.LinkTarget = []byte(target)
	}
	l.next.Files = append(l.next.Files, m)
	l.bytes += proto.Size(m)
	if len(l.next.Files)+len(l.next.Failures) >= listFiles || l.bytes >= listBytes {
		return l.flush()
	}
	return nil
}

func (l *lister) flush() error {
	if len(l.next.Files)+len(l.next.Failures) == 0 {
		return nil
	}
	err := l.st.Send(l.next)
	l.next, l.bytes = &guestv1.ListResponse{}, 0
	return err
}

// Read reads a part of a file.
func (s *Server) Read(r *guestv1.ReadRequest, st grpc.ServerStreamingServer[guestv1.ReadResponse]) error {
	return s.with(st.Context(), "read", r.Subject, r.Path, func(t tree, path string) error {
		f, info, err := openRegular(t, "read", r.Path, path)
		if err != nil {
			return err
		}
		defer f.Close()
		n := names{s: s}
		frame := &bulk.Frame{Layout: bulk.FilePiece}
		frame.Control = &guestv1.ReadResponse{Message: &guestv1.ReadResponse_File{File: n.fileInfo(info.Name(), info)}}
		if err := st.SendMsg(frame); err != nil {
			return err
		}
		frame.Control = nil
		_, err = eachPiece(st.Context(), f, r.Offset, r.Length, func(offset uint64, data []byte) error {
			frame.Data, frame.Varints[pieceOffset] = data, offset
			return st.SendMsg(frame)
		})
		return err
	})
}

// The fields of a Piece.
const (
	pieceOffset = 1
	pieceEOF    = 4
)

// DiskUsage sums up what a tree takes.
func (s *Server) DiskUsage(ctx context.Context, r *guestv1.DiskUsageRequest) (*guestv1.DiskUsageResponse, error) {
	u := &usage{ctx: ctx, seen: make(map[[2]uint64]bool), m: &guestv1.DiskUsageResponse{}}
	err := s.with(ctx, "du", r.Subject, r.Path, func(t tree, path string) error {
		info, err := t.stat(path, false)
		if err != nil {
			return err
		}
		u.add(info)
		if !info.IsDir() {
			return nil
		}
		root, err := t.openRoot(path)
		if err != nil {
			return err
		}
		defer root.Close()
		if u.left, err = leaveOut(t, root); err != nil {
			return err
		}
		return u.below(root, "")
	})
	return u.m, err
}

type usage struct {
	ctx  context.Context
	seen map[[2]uint64]bool // files with several names
	m    *guestv1.DiskUsageResponse
	left leftOut
}

func (u *usage) add(info fs.FileInfo) {
	m := (&names{s: &Server{}, users: map[uint32]string{}, groups: map[uint32]string{}}).fileInfo("", info)
	if info.IsDir() {
		u.m.Directories++
	} else {
		u.m.Files++
		if m.Links > 1 {
			key := [2]uint64{m.Device, m.Inode}
			if u.seen[key] {
				return
			}
			u.seen[key] = true
		}
	}
	u.m.AllocatedBytes += m.Blocks * 512
	u.m.ApparentBytes += m.Size
}

func (u *usage) below(root *os.Root, prefix string) error {
	d, err := root.Open(".")
	if err != nil {
		u.m.Unreadable++
		return nil
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			path := join(prefix, name)
			if u.left.has(path) {
				u.m.Unreadable++
				continue
			}
			info, err := root.Lstat(name)
			if err != nil {
				continue // gone since
			}
			u.add(info)
			if !info.IsDir() {
				continue
			}
			sub, err := root.OpenRoot(name + asDir)
			if err != nil {
				u.m.Unreadable++
				continue
			}
			err = u.below(sub, path)
			sub.Close()
			if err != nil {
				return err
			}
		}
		if ctxErr := u.ctx.Err(); ctxErr != nil {
			return ctxErr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			u.m.Unreadable++
			return nil
		}
	}
}

// randomName returns a string that nobody guesses.
func randomName() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
