package rpc

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wireCode says in RESET and GOAWAY why a stream or a connection ends.
type wireCode uint32

const (
	codeNone        wireCode = 0  // GOAWAY: an orderly end
	codeProtocol    wireCode = 1  // a frame that is not allowed here
	codeInternal    wireCode = 2  // a fault of the sender's own
	codeFlowControl wireCode = 3  // more bytes than credit, or credit beyond 2^31-1
	codeFrameSize   wireCode = 4  // a length outside the limits of its type
	codeRefused     wireCode = 5  // the stream was not given to a handler
	codeCancelled   wireCode = 6  // nobody wants the stream any more
	codeDeadline    wireCode = 7  // the stream's time is up
	codeResource    wireCode = 8  // a limit on sizes or memory
	codeFlood       wireCode = 9  // too many frames that ask for work
	codeTimeout     wireCode = 10 // no sign of life
	codeTooOld      wireCode = 11 // no common version
)

func (c wireCode) String() string {
	names := [...]string{"NONE", "PROTOCOL", "INTERNAL", "FLOW_CONTROL", "FRAME_SIZE", "REFUSED",
		"CANCELLED", "DEADLINE", "RESOURCE", "FLOOD", "TIMEOUT", "TOO_OLD"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// status returns the gRPC code for a stream that the peer reset with c.
func (c wireCode) status() codes.Code {
	switch c {
	case codeCancelled:
		return codes.Canceled
	case codeDeadline:
		return codes.DeadlineExceeded
	case codeResource, codeFlood:
		return codes.ResourceExhausted
	case codeRefused, codeNone, codeTimeout:
		return codes.Unavailable
	}
	return codes.Internal
}

// connError is an error of the peer's that ends the connection.
type connError struct {
	code wireCode
	text string
}

func (e *connError) Error() string { return e.code.String() + ": " + e.text }

func connErrorf(code wireCode, format string, a ...any) error {
	return &connError{code, fmt.Sprintf(format, a...)}
}

// goneError is why the peer has ended the connection, as its GOAWAY says.
type goneError struct {
	code wireCode
	text string
}

func (e *goneError) Error() string {
	return fmt.Sprintf("the peer ended the connection: %v: %s", e.code, e.text)
}

// lostError is the error of a call whose connection has ended with err.
func lostError(err error) error {
	if errors.Is(err, errClientClosed) {
		return err
	}
	code := codes.Unavailable
	var ge *goneError
	var ce *connError
	if errors.As(err, &ge) {
		code = ge.code.status()
	} else if errors.As(err, &ce) {
		code = ce.code.status()
	}
	return status.Error(code, "rpc: connection lost: "+err.Error())
}

// errNotRun marks a call that has provably not reached a handler, so that it may
// be made again on another connection.
type errNotRun struct{ err error }

func (e *errNotRun) Error() string { return e.err.Error() }
func (e *errNotRun) Unwrap() error { return e.err }

var (
	errClientClosed = status.Error(codes.Canceled, "rpc: the client is closed")
	errConnClosed   = errors.New("the connection was closed")
	errServerStop   = errors.New("the server was stopped")
)
