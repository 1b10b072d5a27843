package file

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/internal/subject"
	"github.com/vsockrpc/vsockrpc/internal/archive"
)

// Stable words of this package's errors (ErrorDetail.reason), beside those of
// package archive.
const (
	reasonNotPermitted = archive.ReasonNotPermitted
	reasonFailed       = archive.ReasonFailed
	reasonProtocol     = archive.ReasonProtocol
	reasonTooMany      = "too-many-calls"
	reasonTakenOver    = "taken-over"
	reasonCut          = "transfer-cut"
	reasonHangs        = "file-hangs"
)

// toFault makes what went wrong with op on path what a client sees.
func toFault(op string, path []byte, err error) error {
	if err == nil || errors.Is(err, archive.ErrCut) {
		return err
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if f, ok := errors.AsType[*archive.Failure](err); ok {
		return fault.New(f.Code, f.Reason, "%s", f.Text).On(f.Op, f.Path, err).Hint(f.Remedy)
	}
	if left, ok := errors.AsType[*subject.LeftError](err); ok {
		// Nobody may be there to read it, but for the audit log.
		return fault.New(status.FromContextError(left.Err).Code(), reasonHangs, "%s %s: no answer of the file system before the call was ended", op, path).
			On(op, string(path), nil).Hint("look at what is mounted there in the guest")
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	cause := err
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		cause = pe.Err
	} else if le, ok := errors.AsType[*os.LinkError](err); ok {
		cause = le.Err
	}
	code, reason, remedy := archive.Classify(err)
	return fault.New(code, reason, "%s %s: %v", op, path, cause).On(op, string(path), err).Hint(remedy)
}

func protocolFault(text string) error {
	return fault.New(codes.InvalidArgument, reasonProtocol, "%s", text)
}

// specialFault says that what is no regular file is not opened.
func specialFault(op string, path []byte, mode fs.FileMode) error {
	kind := "device"
	switch {
	case mode.IsDir():
		return fault.New(codes.FailedPrecondition, archive.ReasonIsDirectory, "%s %s: it is a directory", op, path).On(op, string(path), errIsDir)
	case mode&fs.ModeNamedPipe != 0:
		kind = "FIFO"
	case mode&fs.ModeSocket != 0:
		kind = "socket"
	}
	return fault.New(codes.FailedPrecondition, archive.ReasonSpecial, "%s %s: it is a %s, not a file", op, path, kind).On(op, string(path), nil).
		Hint("read or write it with a command in the guest")
}
