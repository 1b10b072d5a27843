// Package fault makes the errors that the agent's services answer with: a gRPC
// status with a guest.v1.ErrorDetail, which has a stable word, the kernel's errno
// and what to do.
package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Error is an error with everything that ErrorDetail carries. A handler returns
// it as it is: it knows its gRPC status. It is made by New and not changed once
// it has been returned.
type Error struct {
	code   codes.Code
	reason string
	op     string
	path   string
	errno  syscall.Errno
	text   string
	remedy string
}

// maxText bounds the text and the path of an error, in bytes: they may repeat what
// the caller has sent.
const maxText = 4 << 10

// clip bounds a text.
func clip(s string) string {
	if len(s) > maxText {
		return strings.ToValidUTF8(s[:maxText], "") + "..."
	}
	return s
}

// New returns an error whose text is formatted from format and args, and cut if it
// is very long. The reason is a stable word of docs/errors.md.
func New(code codes.Code, reason, format string, args ...any) *Error {
	return &Error{code: code, reason: reason, text: clip(fmt.Sprintf(format, args...))}
}

// On sets which operation failed on what, and the kernel's answer if err has
// one. It returns e.
func (e *Error) On(op, path string, err error) *Error {
	e.op, e.path = op, path[:min(len(path), maxText)]
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		e.errno = errno
	}
	return e
}

// Hint sets what to do about it. It returns e.
func (e *Error) Hint(remedy string) *Error {
	e.remedy = clip(remedy)
	return e
}

// Error returns the text.
func (e *Error) Error() string { return e.text }

// Reason returns the stable word.
func (e *Error) Reason() string { return e.reason }

// Code returns the gRPC code.
func (e *Error) Code() codes.Code { return e.code }

// Unwrap returns the kernel's errno, or nil.
func (e *Error) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// GRPCStatus is what a client sees. Its message is made valid UTF-8; the path in
// its detail is left as it is.
func (e *Error) GRPCStatus() *status.Status {
	st := status.New(e.code, strings.ToValidUTF8(e.text, "\uFFFD"))
	with, err := st.WithDetails(&guestv1.ErrorDetail{
		Reason:    e.reason,
		Remedy:    e.remedy,
		Errno:     uint32(e.errno),
		Operation: e.op,
		Path:      []byte(e.path),
	})
	if err != nil {
		return st
	}
	return with
}

// jsonError is how an Error is written.
type jsonError struct {
	Code   codes.Code
	Reason string
	Op     string `json:",omitempty"`
	Path   []byte `json:",omitempty"`
	Errno  syscall.Errno
	Text   string
	Remedy string `json:",omitempty"`
}

// MarshalJSON implements json.Marshaler, for an error that another process is to
// answer with.
func (e *Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(jsonError{e.code, e.reason, e.op, []byte(e.path), e.errno, e.text, e.remedy})
}

// UnmarshalJSON is the reverse. It takes no error without a code or a reason.
func (e *Error) UnmarshalJSON(b []byte) error {
	var j jsonError
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if j.Code == codes.OK || j.Code > codes.Unauthenticated || j.Reason == "" {
		return fmt.Errorf("no error: code %d, reason %q", j.Code, j.Reason)
	}
	*e = Error{j.Code, j.Reason, j.Op, string(j.Path), j.Errno, j.Text, j.Remedy}
	return nil
}
