package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// The fields of a guestv1.Piece.
const (
	pieceOffset = 1
	pieceHole   = 3
	pieceEOF    = 4
)

const (
	openPiece   = 256 << 10 // of one request
	openAtATime = 8         // requests that wait for their answers
	readAhead   = 64 << 10  // of a Read that asks for less
)

// RemoteFile is a file of the guest that is open, as *os.File is one of this
// machine's. The guest holds it open for as long as the connection lives: when
// that is lost, the file is too, and every method says so. Its methods may be
// called concurrently; they wait for each other.
type RemoteFile struct {
	g      *Guest
	name   string
	st     grpc.ClientStream
	cancel context.CancelFunc
	info   FileInfo
	append bool

	mu     sync.Mutex
	offset int64
	closed bool
	in     bulk.Frame
	ahead  []byte // read and not asked for yet, from offset on
}

var (
	_ fs.File            = (*RemoteFile)(nil)
	_ io.ReadWriteSeeker = (*RemoteFile)(nil)
	_ io.ReaderAt        = (*RemoteFile)(nil)
	_ io.WriterAt        = (*RemoteFile)(nil)
)

// Open opens a file to read it.
func (f *Files) Open(ctx context.Context, name string) (*RemoteFile, error) {
	return f.OpenFile(ctx, name, os.O_RDONLY, 0)
}

// Create makes a file, or empties it, to read and write it.
func (f *Files) Create(ctx context.Context, name string) (*RemoteFile, error) {
	return f.OpenFile(ctx, name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// OpenFile opens a regular file with the flags of package os. The file is open
// until Close, or until ctx is done. A FIFO, a device or a socket is refused.
func (f *Files) OpenFile(ctx context.Context, name string, flag int, mode fs.FileMode) (*RemoteFile, error) {
	method := guestv1.FileService_Open_FullMethodName
	ctx, cancel := context.WithCancel(ctx)
	st, err := f.client().Open(ctx)
	if err != nil {
		cancel()
		return nil, f.g.wrap("open", method, err)
	}
	access := flag & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR)
	open := &guestv1.OpenFile{Subject: f.subject(), Path: []byte(name), Read: access != os.O_WRONLY, Write: access != os.O_RDONLY,
		Create: flag&os.O_CREATE != 0, Exclusive: flag&os.O_EXCL != 0, Truncate: flag&os.O_TRUNC != 0, Append: flag&os.O_APPEND != 0,
		Mode: archive.LinuxMode(mode) & 0o7777}
	file := &RemoteFile{g: f.g, name: name, st: st, cancel: cancel, append: open.Append,
		in: bulk.Frame{Layout: bulk.FilePiece, NewControl: func() proto.Message { return new(guestv1.OpenResponse) }}}
	// What a failed Send means, Recv says.
	_ = st.Send(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: open}})
	m, err := st.Recv()
	if err == nil && m.GetOpened() == nil {
		err = protocolError("the first message does not open the file")
	}
	if err != nil {
		cancel()
		return nil, f.g.wrap("open", method, noStreamEnd(err))
	}
	file.info = newFileInfo(string(m.GetOpened().GetPath()), m.GetOpened())
	return file, nil
}

func noStreamEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return protocolError("the stream ended too early")
	}
	return err
}

// Name returns the name given to OpenFile.
func (f *RemoteFile) Name() string { return f.name }

// ask sends a request.
func (f *RemoteFile) ask(m any) error {
	if f.closed {
		return &fs.PathError{Op: "use", Path: f.name, Err: fs.ErrClosed}
	}
	if err := f.st.SendMsg(m); err != nil && !errors.Is(err, io.EOF) {
		return f.g.wrap("use", guestv1.FileService_Open_FullMethodName, err)
	}
	return nil
}

// answer receives the next response; data is good until the next.
func (f *RemoteFile) answer(op string) (result *guestv1.OperationResult, err error) {
	f.in.Control = nil
	if err := f.st.RecvMsg(&f.in); err != nil {
		return nil, f.g.wrap(op, guestv1.FileService_Open_FullMethodName, noStreamEnd(err))
	}
	if f.in.IsData() {
		return nil, nil
	}
	result = f.in.Control.(*guestv1.OpenResponse).GetResult()
	if result == nil {
		return nil, f.g.wrap(op, "", protocolError("an answer to nothing"))
	}
	if result.Failure != nil {
		return result, f.g.failure(op, result.Failure)
	}
	return result, nil
}

// operate makes an operation and returns its result.
func (f *RemoteFile) operate(op string, o *guestv1.FileOperation) (*guestv1.OperationResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.operateLocked(op, o)
}

func (f *RemoteFile) operateLocked(op string, o *guestv1.FileOperation) (*guestv1.OperationResult, error) {
	if err := f.ask(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Operation{Operation: o}}); err != nil {
		return nil, err
	}
	m, err := f.answer(op)
	if err == nil && m == nil {
		err = f.g.wrap(op, "", protocolError("data that was not asked for"))
	}
	return m, err
}

// Read reads from the current offset on.
func (f *RemoteFile) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.ahead) == 0 && len(p) < readAhead {
		buf := make([]byte, readAhead)
		n, err := f.readAt(buf, f.offset, true)
		if f.ahead = buf[:n]; n == 0 {
			return 0, err
		}
	}
	if len(f.ahead) > 0 {
		n := copy(p, f.ahead)
		f.ahead = f.ahead[n:]
		f.offset += int64(n)
		return n, nil
	}
	n, err := f.readAt(p, f.offset, true)
	f.offset += int64(n)
	return n, err
}

// ReadAt reads from off on: less than p only at the end, with io.EOF.
func (f *RemoteFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrInvalid}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readAt(p, off, false)
}

// readAt reads p full, or with partial one answer's worth.
func (f *RemoteFile) readAt(p []byte, off int64, partial bool) (int, error) {
	if partial {
		p = p[:min(len(p), openPiece)]
	}
	if len(p) == 0 {
		return 0, nil
	}
	asked, answered, waiting, n, eof := 0, 0, 0, 0, false
	for n < len(p) && !eof || waiting > 0 {
		for asked < len(p) && waiting < openAtATime && !eof {
			size := min(len(p)-asked, openPiece)
			r := &guestv1.ReadAt{Offset: uint64(off) + uint64(asked), Length: uint32(size)}
			if err := f.ask(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Read{Read: r}}); err != nil {
				return n, err
			}
			asked, waiting = asked+size, waiting+1
		}
		m, err := f.answer("read")
		if err != nil && m == nil {
			return n, err
		}
		at := uint64(off) + uint64(answered)
		waiting, answered = waiting-1, answered+openPiece
		if err != nil {
			if waiting == 0 {
				return n, err
			}
			continue
		}
		if m != nil || f.in.Varints[pieceOffset] != at || len(f.in.Data) > min(len(p)-n, openPiece) && !eof {
			f.in.Free()
			return n, f.g.wrap("read", "", protocolError("a read has another answer"))
		}
		if !eof {
			n += copy(p[n:], f.in.Data)
			eof = f.in.Varints[pieceEOF] != 0 || len(f.in.Data) == 0 || n < len(p) && n%openPiece != 0
		}
		f.in.Free()
	}
	if eof && (n < len(p) && !partial || n == 0) {
		return n, io.EOF
	}
	return n, nil
}

// Write writes at the current offset, or at the end with os.O_APPEND.
func (f *RemoteFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.writeAt(p, f.offset)
	f.offset += int64(n)
	return n, err
}

// WriteAt writes at off. A file open with os.O_APPEND cannot.
func (f *RemoteFile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || f.append {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: fs.ErrInvalid}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writeAt(p, off)
}

func (f *RemoteFile) writeAt(p []byte, off int64) (int, error) {
	f.ahead = nil
	sent, waiting, written := 0, 0, 0
	var failure error
	for sent < len(p) && failure == nil || waiting > 0 {
		if sent < len(p) && waiting < openAtATime && failure == nil {
			out := &bulk.Frame{Layout: bulk.FilePiece, Data: p[sent:min(sent+openPiece, len(p))]}
			out.Varints[pieceOffset] = uint64(off) + uint64(sent)
			if err := f.ask(out); err != nil {
				return written, err
			}
			sent, waiting = sent+len(out.Data), waiting+1
			continue
		}
		m, err := f.answer("write")
		if m == nil {
			if err == nil {
				err = f.g.wrap("write", "", protocolError("a write has another answer"))
			}
			return written, err
		}
		waiting--
		if failure == nil {
			if m.Written > uint64(sent-written) {
				return written, f.g.wrap("write", "", protocolError("%d bytes written of %d", m.Written, sent-written))
			}
			written += int(m.Written)
			failure = err
		}
	}
	if failure == nil && written < len(p) {
		failure = io.ErrShortWrite
	}
	return written, failure
}

// Seek sets the offset of the next Read or Write.
func (f *RemoteFile) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.offset
	case io.SeekEnd:
		m, err := f.operateLocked("seek", &guestv1.FileOperation{Operation: &guestv1.FileOperation_Stat{Stat: true}})
		if err != nil {
			return 0, err
		}
		offset += int64(m.GetFile().GetSize())
	default:
		offset = -1
	}
	if offset < 0 {
		return 0, &fs.PathError{Op: "seek", Path: f.name, Err: fs.ErrInvalid}
	}
	f.offset, f.ahead = offset, nil
	return offset, nil
}

// Stat describes the file as it is now.
func (f *RemoteFile) Stat() (fs.FileInfo, error) {
	m, err := f.operate("stat", &guestv1.FileOperation{Operation: &guestv1.FileOperation_Stat{Stat: true}})
	if err != nil {
		return nil, err
	}
	return newFileInfo(f.info.Name(), m.GetFile()), nil
}

// Truncate sets the size.
func (f *RemoteFile) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ahead = nil
	_, err := f.operateLocked("truncate", &guestv1.FileOperation{Operation: &guestv1.FileOperation_Truncate{Truncate: uint64(max(size, 0))}})
	return err
}

// Sync makes what was written durable.
func (f *RemoteFile) Sync() error {
	_, err := f.operate("fsync", &guestv1.FileOperation{Operation: &guestv1.FileOperation_Sync{Sync: true}})
	return err
}

// Close closes the file in the guest, and returns what that says.
func (f *RemoteFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	defer f.cancel()
	_, err := f.operateLocked("close", &guestv1.FileOperation{Operation: &guestv1.FileOperation_Close{Close: true}})
	f.closed = true
	return err
}

// ReadFile returns the contents of a file. One of more than limit bytes is an
// error; a limit of 0 means 1 GiB.
func (f *Files) ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	if limit == 0 {
		limit = 1 << 30
	}
	var b bytes.Buffer
	w := &limitWriter{w: &b, left: limit}
	if err := f.CopyRange(ctx, w, name, 0, 0); err != nil {
		if w.left < 0 {
			err = f.g.newError("read", codes.ResourceExhausted, archive.ReasonTooManyBytes, fmt.Sprintf("%s has more than %d bytes", name, limit))
		}
		return nil, err
	}
	return b.Bytes(), nil
}

type limitWriter struct {
	w    io.Writer
	left int64
}

func (w *limitWriter) Write(p []byte) (int, error) {
	if w.left -= int64(len(p)); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return w.w.Write(p)
}
