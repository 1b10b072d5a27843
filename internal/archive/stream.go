package archive

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Stream is a grpc.ClientStream or a grpc.ServerStream: an upload's or a
// download's, whose messages are the same.
type Stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
	Context() context.Context
}

// Aborter is a Stream that can be ended from this side: a client's. A sender ends
// it when the other side breaks the protocol, which may also not read what is
// sent.
type Aborter interface{ Abort() }

// Sizes of what is sent.
const (
	// PieceBytes is the most that a piece carries.
	PieceBytes = 64 << 10
	// smallFile is the most that is sent with its entry.
	smallFile = 32 << 10
	// batchBytes is when a batch of entries is sent, at the latest.
	batchBytes = 128 << 10
	// batchEntries bounds the entries of one message.
	batchEntries = 256
	// maxUnderway bounds the entries that are sent and not acknowledged.
	maxUnderway = 8 << 10
	// Window is how many bytes of contents a receiver lets be under way.
	Window = 4 << 20
)

// ErrCut is the end of a stream before the transfer's own end: the connection is
// lost, or the other side is gone. The transfer can be gone on with.
var ErrCut = errors.New("the transfer was cut")

// cutError is ErrCut with its cause.
type cutError struct{ err error }

// Error says what the agent has said, or how the connection ended.
func (e *cutError) Error() string {
	st, ok := status.FromError(e.err)
	switch {
	case !ok:
		return ErrCut.Error() + ": " + e.err.Error()
	case st.Code() == codes.Unavailable:
		return ErrCut.Error() + ": " + st.Message()
	}
	return st.Message()
}

func (e *cutError) Unwrap() []error { return []error{ErrCut, e.err} }

// cut returns what the end of a stream means. A failed SendMsg says io.EOF; the
// reason is RecvMsg's.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &cutError{err}
}

// received receives the sender's messages: data in frame, or the message.
func newSenderFrame() *bulk.Frame {
	return &bulk.Frame{Layout: bulk.FilePiece, NewControl: func() proto.Message { return new(guestv1.UploadRequest) }}
}

// The fields of a Piece.
const (
	pieceOffset = 1
	pieceHole   = 3
)
