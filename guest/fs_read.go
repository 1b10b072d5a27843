package guest

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// CopyRange writes length bytes of a file from offset on, or up to its end if
// length is 0, to w. A file of /proc is read to its end whatever size it claims.
//
// After a lost connection it goes on where it was, for as long as Config.Reconnect
// says, if name is the same file still and as long at least: otherwise the error's
// Reason is file-changed.
func (f *Files) CopyRange(ctx context.Context, w io.Writer, name string, offset, length uint64) error {
	method := guestv1.FileService_Read_FullMethodName
	r := &reading{files: f, w: w, request: &guestv1.ReadRequest{Subject: f.subject(), Path: []byte(name), Offset: offset, Length: length}}
	if err := f.g.persist(ctx, "read", method, func() error { return r.read(ctx) }); err != nil {
		return err
	}
	return r.writeErr
}

// reading is a CopyRange, over all its connections.
type reading struct {
	files    *Files
	w        io.Writer
	request  *guestv1.ReadRequest // of what is still to be read
	file     *guestv1.FileInfo    // what is read, nil before the first answer
	begun    bool                 // something was read
	complete bool                 // all that was asked for was read
	writeErr error                // of w; ends the reading
}

// read reads on one connection.
func (r *reading) read(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := r.files.client().Read(ctx, r.request)
	if err != nil {
		return err
	}
	in := bulk.Frame{Layout: bulk.FilePiece, NewControl: func() proto.Message { return new(guestv1.ReadResponse) }}
	defer in.Free()
	for first := true; ; first = false {
		in.Control = nil
		if err := st.RecvMsg(&in); err != nil {
			if errors.Is(err, io.EOF) && !first || r.complete {
				return nil
			}
			return noStreamEnd(err)
		}
		if first != !in.IsData() {
			return protocolError("a read in the wrong order")
		}
		if first {
			if err := r.opened(in.Control.(*guestv1.ReadResponse).GetFile()); err != nil {
				return err
			}
			continue
		}
		if err := r.take(&in); err != nil || r.writeErr != nil {
			return err
		}
	}
}

// opened takes note of the file, or compares it with the one that was read before.
func (r *reading) opened(file *guestv1.FileInfo) error {
	before := r.file
	r.file = file
	if !r.begun || before.GetDevice() == file.GetDevice() && before.GetInode() == file.GetInode() && file.GetSize() >= r.request.Offset {
		return nil
	}
	return r.files.g.newError("read", codes.Aborted, archive.ReasonChanged, "the connection was lost while the file was read, and it is another file now, or shorter")
}

// take writes a piece.
func (r *reading) take(in *bulk.Frame) error {
	n, length := uint64(len(in.Data)), r.request.Length
	if in.Varints[pieceOffset] != r.request.Offset || n == 0 || length > 0 && n > length || r.complete {
		return protocolError("a piece of %d bytes at byte %d, want %d", n, in.Varints[pieceOffset], r.request.Offset)
	}
	r.begun, r.complete = true, n == length
	r.request.Offset += n
	if length > 0 {
		r.request.Length -= n
	}
	_, r.writeErr = r.w.Write(in.Data)
	return nil
}
