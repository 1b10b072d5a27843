package wire

import (
	"fmt"

	"google.golang.org/grpc/codes"
)

// Code says in RESET and GOAWAY why a stream or a connection ends.
type Code uint32

const (
	CodeNone        Code = 0  // GOAWAY: an orderly end
	CodeProtocol    Code = 1  // a frame that is not allowed here
	codeInternal    Code = 2  // a fault of the sender's own
	CodeFlowControl Code = 3  // more bytes than credit, or credit beyond 2^31-1
	CodeFrameSize   Code = 4  // a length outside the limits of its type
	CodeRefused     Code = 5  // the stream was not given to a handler
	CodeCancelled   Code = 6  // nobody wants the stream any more
	CodeDeadline    Code = 7  // the stream's time is up
	CodeResource    Code = 8  // a limit on sizes or memory
	CodeFlood       Code = 9  // too many frames that ask for work
	CodeTimeout     Code = 10 // no sign of life
	CodeTooOld      Code = 11 // no common version
)

func (c Code) String() string {
	names := [...]string{"NONE", "PROTOCOL", "INTERNAL", "FLOW_CONTROL", "FRAME_SIZE", "REFUSED",
		"CANCELLED", "DEADLINE", "RESOURCE", "FLOOD", "TIMEOUT", "TOO_OLD"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// Status returns the gRPC code for a stream that the peer reset with c.
func (c Code) Status() codes.Code {
	switch c {
	case CodeCancelled:
		return codes.Canceled
	case CodeDeadline:
		return codes.DeadlineExceeded
	case CodeResource, CodeFlood:
		return codes.ResourceExhausted
	case CodeRefused, CodeNone, CodeTimeout:
		return codes.Unavailable
	}
	return codes.Internal
}

// Error is an error of the peer's that ends the connection.
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Text }

func Errorf(code Code, format string, a ...any) error {
	return &Error{code, fmt.Sprintf(format, a...)}
}
