package guesttest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// files is a FileService over the files of this machine.
type files struct {
	guestv1.UnimplementedFileServiceServer
}

// local returns the path here of a path of the guest.
func local(path []byte) string {
	p := filepath.FromSlash(string(path))
	if filepath.IsAbs(p) {
		return p
	}
	home, _ := os.UserHomeDir() // else below the test's own directory
	return filepath.Join(home, p)
}

func describe(path string, info fs.FileInfo) *guestv1.FileInfo {
	return &guestv1.FileInfo{Path: []byte(filepath.ToSlash(path)), Mode: archive.LinuxMode(info.Mode()), Size: uint64(info.Size()), ModifiedUnixNanos: info.ModTime().UnixNano()}
}

func (files) Stat(_ context.Context, r *guestv1.StatRequest) (*guestv1.StatResponse, error) {
	stat := os.Lstat
	if r.Follow {
		stat = os.Stat
	}
	info, err := stat(local(r.Path))
	if err != nil {
		return nil, fail("stat", r.Path, err)
	}
	return &guestv1.StatResponse{File: describe(info.Name(), info)}, nil
}

func (files) ReadLink(_ context.Context, r *guestv1.ReadLinkRequest) (*guestv1.ReadLinkResponse, error) {
	target, err := os.Readlink(local(r.Path))
	return &guestv1.ReadLinkResponse{Target: []byte(filepath.ToSlash(target))}, fail("readlink", r.Path, err)
}

func (files) List(r *guestv1.ListRequest, st grpc.ServerStreamingServer[guestv1.ListResponse]) error {
	base := local(r.Path)
	info, err := os.Stat(base)
	if err != nil {
		return fail("list", r.Path, err)
	}
	if !info.IsDir() {
		return st.Send(&guestv1.ListResponse{Files: []*guestv1.FileInfo{describe("", info)}})
	}
	return fail("list", r.Path, filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		below, relErr := filepath.Rel(base, path)
		if err != nil || relErr != nil || below == "." {
			return errors.Join(err, relErr)
		}
		info, err := d.Info()
		if err != nil {
			return nil // gone since
		}
		if err := st.Send(&guestv1.ListResponse{Files: []*guestv1.FileInfo{describe(below, info)}}); err != nil {
			return err
		}
		if d.IsDir() && uint32(strings.Count(filepath.ToSlash(below), "/")) >= r.Depth {
			return fs.SkipDir
		}
		return nil
	}))
}

func (files) Read(r *guestv1.ReadRequest, st grpc.ServerStreamingServer[guestv1.ReadResponse]) error {
	f, info, err := openRegular(r.Path, os.O_RDONLY, 0)
	if err != nil {
		return fail("read", r.Path, err)
	}
	defer f.Close()
	if err := st.Send(&guestv1.ReadResponse{Message: &guestv1.ReadResponse_File{File: describe(info.Name(), info)}}); err != nil {
		return err
	}
	return fail("read", r.Path, eachPiece(f, r.Offset, r.Length, func(offset uint64, data []byte) error {
		return st.Send(&guestv1.ReadResponse{Message: &guestv1.ReadResponse_Piece{Piece: &guestv1.Piece{Offset: offset, Data: data}}})
	}))
}

func openRegular(path []byte, flag int, mode fs.FileMode) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(local(path), flag, mode)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = refuse(codes.FailedPrecondition, archive.ReasonSpecial, "open "+string(path)+": no regular file", &guestv1.ErrorDetail{Operation: "open", Path: path})
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// eachPiece reads length bytes, or up to the end if that is 0.
func eachPiece(f io.ReaderAt, offset, length uint64, use func(offset uint64, data []byte) error) error {
	if length == 0 {
		length = 1<<63 - 1 - offset
	}
	r := io.NewSectionReader(f, int64(offset), int64(length))
	buf := make([]byte, archive.PieceBytes)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := use(offset, buf[:n]); err != nil {
				return err
			}
			offset += uint64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (files) Hash(_ context.Context, r *guestv1.HashRequest) (*guestv1.HashResponse, error) {
	f, _, err := openRegular(r.Path, os.O_RDONLY, 0)
	if err != nil {
		return nil, fail("hash", r.Path, err)
	}
	defer f.Close()
	h, m := sha256.New(), &guestv1.HashResponse{}
	err = eachPiece(f, r.Offset, r.Length, func(_ uint64, data []byte) error {
		m.Length += uint64(len(data))
		h.Write(data)
		return nil
	})
	m.Sha256 = h.Sum(nil)
	return m, fail("hash", r.Path, err)
}

func (files) MakeDirectory(_ context.Context, r *guestv1.MakeDirectoryRequest) (*guestv1.MakeDirectoryResponse, error) {
	mkdir := os.Mkdir
	if r.Parents {
		mkdir = os.MkdirAll
	}
	return &guestv1.MakeDirectoryResponse{}, fail("mkdir", r.Path, mkdir(local(r.Path), archive.FileMode(r.Mode)))
}

func (files) RemoveFile(_ context.Context, r *guestv1.RemoveFileRequest) (*guestv1.RemoveFileResponse, error) {
	remove := os.Remove
	if r.Recursive {
		remove = os.RemoveAll
	}
	err := remove(local(r.Path))
	if r.MissingOk && errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return &guestv1.RemoveFileResponse{}, fail("rm", r.Path, err)
}

func (files) Rename(_ context.Context, r *guestv1.RenameRequest) (*guestv1.RenameResponse, error) {
	if r.NoReplace {
		return nil, missing("rename that replaces nothing")
	}
	return &guestv1.RenameResponse{}, fail("mv", r.Path, os.Rename(local(r.Path), local(r.NewPath)))
}

func (files) SetAttributes(_ context.Context, r *guestv1.SetAttributesRequest) (*guestv1.SetAttributesResponse, error) {
	if r.User != nil || r.Group != nil || !r.Follow {
		return nil, missing("owners")
	}
	path := local(r.Path)
	var err error
	if r.Mode != nil {
		err = os.Chmod(path, archive.FileMode(*r.Mode))
	}
	if err == nil && r.Size != nil {
		err = os.Truncate(path, int64(*r.Size))
	}
	if err == nil && (r.ModifiedUnixNanos != nil || r.AccessedUnixNanos != nil) {
		var accessed, modified time.Time // zero: unchanged
		if r.AccessedUnixNanos != nil {
			accessed = time.Unix(0, *r.AccessedUnixNanos)
		}
		if r.ModifiedUnixNanos != nil {
			modified = time.Unix(0, *r.ModifiedUnixNanos)
		}
		err = os.Chtimes(path, accessed, modified)
	}
	return &guestv1.SetAttributesResponse{}, fail("set attributes", r.Path, err)
}

func (files) MakeLink(_ context.Context, r *guestv1.MakeLinkRequest) (*guestv1.MakeLinkResponse, error) {
	if r.Hard {
		return &guestv1.MakeLinkResponse{}, fail("link", r.Path, os.Link(local(r.Target), local(r.Path)))
	}
	return &guestv1.MakeLinkResponse{}, fail("symlink", r.Path, os.Symlink(filepath.FromSlash(string(r.Target)), local(r.Path)))
}

func (files) MakeTemporary(_ context.Context, r *guestv1.MakeTemporaryRequest) (*guestv1.MakeTemporaryResponse, error) {
	dir := os.TempDir()
	if len(r.Directory) > 0 {
		dir = local(r.Directory)
	}
	var path string
	var err error
	if r.MakeDirectory {
		path, err = os.MkdirTemp(dir, string(r.Pattern))
	} else {
		var f *os.File
		if f, err = os.CreateTemp(dir, string(r.Pattern)); err == nil {
			path, err = f.Name(), f.Close()
		}
	}
	return &guestv1.MakeTemporaryResponse{Path: []byte(filepath.ToSlash(path))}, fail("mktemp", r.Directory, err)
}

func (files) Upload(st guestv1.FileService_UploadServer) error {
	m, err := st.Recv()
	if err != nil {
		return err
	}
	o := m.GetOpen()
	if len(o.GetTransferId()) != 16 || len(o.GetNames()) == 0 {
		return refuse(codes.InvalidArgument, archive.ReasonProtocol, "an upload without an id or names", &guestv1.ErrorDetail{})
	}
	cfg := &archive.ReceiveConfig{Transfer: [16]byte(o.TransferId), Destination: local(o.Destination), Options: o.Options, Resume: o.Resume, Skip: o.Resume && !o.Replace, Trusted: true}
	if strings.HasSuffix(string(o.Destination), "/") {
		cfg.Destination += "/"
	}
	for _, name := range o.Names {
		cfg.Names = append(cfg.Names, string(name))
	}
	_, err = archive.Receive(st, cfg)
	return fail("write", o.Destination, err)
}

func (files) Download(st guestv1.FileService_DownloadServer) error {
	m, err := st.Recv()
	if err != nil {
		return err
	}
	o := m.GetOpen()
	if len(o.GetSources()) == 0 {
		return refuse(codes.InvalidArgument, archive.ReasonProtocol, "a download without sources", &guestv1.ErrorDetail{})
	}
	cfg := &archive.SendConfig{Options: o.Options, Resume: o.Resume, After: o.After}
	for _, s := range o.Sources {
		cfg.Sources = append(cfg.Sources, archive.Source{Path: local(s.Path), Contents: s.Contents})
	}
	_, err = archive.Send(st, cfg)
	return fail("read", o.Sources[0].Path, err)
}

// Open holds a file open until its caller is gone.
func (files) Open(st grpc.BidiStreamingServer[guestv1.OpenRequest, guestv1.OpenResponse]) error {
	m, err := st.Recv()
	if err != nil {
		return err
	}
	o := m.GetOpen()
	f, info, err := openRegular(o.GetPath(), openFlags(o), archive.FileMode(o.GetMode()))
	if err != nil {
		return fail("open", o.GetPath(), err)
	}
	defer f.Close()
	if err := st.Send(&guestv1.OpenResponse{Message: &guestv1.OpenResponse_Opened{Opened: describe(info.Name(), info)}}); err != nil {
		return err
	}
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer := &guestv1.OpenResponse{}
		result := &guestv1.OperationResult{}
		switch m := m.Message.(type) {
		case *guestv1.OpenRequest_Read:
			buf := make([]byte, min(m.Read.Length, maxReadAt))
			var n int
			n, err = f.ReadAt(buf, int64(m.Read.Offset))
			if eof := errors.Is(err, io.EOF); err == nil || eof {
				answer.Message = &guestv1.OpenResponse_Data{Data: &guestv1.Piece{Offset: m.Read.Offset, Data: buf[:n], Eof: eof}}
				err = nil
			}
		case *guestv1.OpenRequest_Write:
			var n int
			if o.Append {
				n, err = f.Write(m.Write.Data)
			} else {
				n, err = f.WriteAt(m.Write.Data, int64(m.Write.Offset))
			}
			result.Written = uint64(n)
		case *guestv1.OpenRequest_Operation:
			err = operate(f, m.Operation, result)
		}
		if answer.Message == nil {
			if err != nil {
				result.Failure = archive.FailureMessage("use", string(o.Path), err)
			}
			answer.Message = &guestv1.OpenResponse_Result{Result: result}
		}
		if err := st.Send(answer); err != nil {
			return err
		}
	}
}

// maxReadAt bounds one answer to a ReadAt.
const maxReadAt = 1 << 20

func openFlags(o *guestv1.OpenFile) int {
	flag := os.O_RDONLY
	if o.GetWrite() {
		flag = os.O_WRONLY
		if o.Read {
			flag = os.O_RDWR
		}
	}
	for bit, set := range map[int]bool{os.O_CREATE: o.GetCreate(), os.O_EXCL: o.GetExclusive(), os.O_TRUNC: o.GetTruncate(), os.O_APPEND: o.GetAppend()} {
		if set {
			flag |= bit
		}
	}
	return flag
}

func operate(f *os.File, o *guestv1.FileOperation, result *guestv1.OperationResult) error {
	switch o := o.Operation.(type) {
	case *guestv1.FileOperation_Truncate:
		return f.Truncate(int64(o.Truncate))
	case *guestv1.FileOperation_Sync:
		return f.Sync()
	case *guestv1.FileOperation_Stat:
		info, err := f.Stat()
		if err == nil {
			result.File = describe(info.Name(), info)
		}
		return err
	}
	return nil // close: the caller goes
}
