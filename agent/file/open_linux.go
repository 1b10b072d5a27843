package file

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/internal/archive"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// maxRead is the most that one read of an open file returns.
const maxRead = 1 << 20

// Open holds a file open for as long as the call lives.
func (s *Server) Open(st guestv1.FileService_OpenServer) error {
	first, err := st.Recv()
	if err != nil {
		return err
	}
	o := first.GetOpen()
	if o == nil {
		return protocolFault("the first message of Open is not open")
	}
	return s.with(st.Context(), "open", o.Subject, o.Path, func(t tree, path string) error {
		f, err := openHandle(t, o, path)
		if err != nil {
			return err
		}
		h := &handle{s: s, st: st, f: f, path: string(o.Path), append: o.Append}
		defer h.close()
		info, err := h.info()
		if err != nil {
			return err
		}
		if err := st.Send(&guestv1.OpenResponse{Message: &guestv1.OpenResponse_Opened{Opened: info}}); err != nil {
			return err
		}
		return h.serve()
	})
}

func openHandle(t tree, o *guestv1.OpenFile, path string) (*os.File, error) {
	var flags int
	switch {
	case o.Read && o.Write:
		flags = os.O_RDWR
	case o.Write:
		flags = os.O_WRONLY
	case o.Read:
		flags = os.O_RDONLY
	default:
		return nil, fault.New(codes.InvalidArgument, reasonProtocol, "open %s: neither to read nor to write", o.Path)
	}
	for _, b := range []struct {
		set  bool
		flag int
	}{{o.Create, os.O_CREATE}, {o.Exclusive, os.O_EXCL}, {o.Append, os.O_APPEND}} {
		if b.set {
			flags |= b.flag
		}
	}
	if info, err := t.stat(path, true); err == nil && !info.Mode().IsRegular() && !(o.Create && o.Exclusive) {
		return nil, specialFault("open", o.Path, info.Mode())
	}
	mode := fs.FileMode(0o666)
	if o.Mode != 0 {
		mode = archive.FileMode(o.Mode & 0o7777)
	}
	f, err := t.open(path, flags, mode)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = specialFault("open", o.Path, info.Mode())
	}
	if err == nil && o.Truncate && info.Size() > 0 {
		// Only now that it is known for a file.
		err = f.Truncate(0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// handle is an open file.
type handle struct {
	s      *Server
	st     guestv1.FileService_OpenServer
	f      *os.File // nil: closed
	path   string
	append bool
	buf    []byte
}

func (h *handle) close() {
	if h.f != nil {
		h.f.Close()
	}
}

// serve answers requests until the client has closed.
func (h *handle) serve() error {
	in := &bulk.Frame{Layout: bulk.FilePiece, NewControl: func() proto.Message { return new(guestv1.OpenRequest) }}
	defer in.Free()
	for {
		in.Control = nil
		if err := h.st.RecvMsg(in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var err error
		last := false
		switch {
		case in.IsData():
			err = h.write(in.Varints[pieceOffset], in.Data)
		case in.Control.(*guestv1.OpenRequest).GetRead() != nil:
			err = h.read(in.Control.(*guestv1.OpenRequest).GetRead())
		default:
			last, err = h.operate(in.Control.(*guestv1.OpenRequest).GetOperation())
		}
		if err != nil || last {
			return err
		}
	}
}

func (h *handle) result(op string, m *guestv1.OperationResult, err error) error {
	if err != nil {
		m.Failure = archive.FailureMessage(op, h.path, err)
	}
	return h.st.SendMsg(&guestv1.OpenResponse{Message: &guestv1.OpenResponse_Result{Result: m}})
}

func (h *handle) write(offset uint64, data []byte) error {
	m := &guestv1.OperationResult{}
	var n int
	var err error
	switch {
	case offset > 1<<63-1-uint64(len(data)):
		err = syscall.EFBIG
	case h.append:
		n, err = h.f.Write(data)
	default:
		n, err = writeAt(int(h.f.Fd()), data, int64(offset))
	}
	m.Written = uint64(n)
	return h.result("write", m, err)
}

// writeAt is os.File's WriteAt, but for an error after a part was written: it says
// how large that is.
func writeAt(fd int, data []byte, offset int64) (int, error) {
	sum := 0
	for sum < len(data) {
		n, err := unix.Pwrite(fd, data[sum:], offset+int64(sum))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return sum, err
		default:
			sum += n
		}
	}
	return sum, nil
}

func (h *handle) read(r *guestv1.ReadAt) error {
	size := min(int(r.Length), maxRead)
	if r.Offset > 1<<63-1 {
		return h.result("read", &guestv1.OperationResult{}, syscall.EINVAL)
	}
	if len(h.buf) < size {
		h.buf = make([]byte, max(size, 64<<10))
	}
	n, err := h.f.ReadAt(h.buf[:size], int64(r.Offset))
	eof := errors.Is(err, io.EOF)
	if err != nil && !eof {
		return h.result("read", &guestv1.OperationResult{}, err)
	}
	out := &bulk.Frame{Layout: bulk.FilePiece, Data: h.buf[:n]}
	out.Varints[pieceOffset], out.Varints[pieceEOF] = r.Offset, bulk.Bool(eof)
	return h.st.SendMsg(out)
}

// operate does what is neither a read nor a write.
func (h *handle) operate(o *guestv1.FileOperation) (last bool, err error) {
	m := &guestv1.OperationResult{}
	op := "fsync"
	switch o := o.GetOperation().(type) {
	case *guestv1.FileOperation_Truncate:
		op = "truncate"
		err = h.f.Truncate(int64(min(o.Truncate, 1<<63-1)))
	case *guestv1.FileOperation_Sync:
		err = h.f.Sync()
	case *guestv1.FileOperation_Stat:
		op = "stat"
		m.File, err = h.info()
	case *guestv1.FileOperation_Close:
		op, last = "close", true
		err = h.f.Close()
		h.f = nil
	default:
		return false, fault.New(codes.Unimplemented, archive.ReasonUnsupported, "an operation on a file that this agent does not know")
	}
	return last, h.result(op, m, err)
}

func (h *handle) info() (*guestv1.FileInfo, error) {
	info, err := h.f.Stat()
	if err != nil {
		return nil, err
	}
	n := names{s: h.s}
	return n.fileInfo(info.Name(), info), nil
}
