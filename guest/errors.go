package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	"github.com/vsockrpc/vsockrpc/internal/declare"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// Error is a failure of a call to a guest. errors.Is works with the errors of
// packages io/fs, os/exec and context where the failure is one of those, with
// syscall.Errno on Linux, and errors.As finds a *transport.Error behind it.
//
// Codes follow gRPC's own rules: what is Unavailable may be called again, by a program
// that may do so twice. A lost session is not (codes.Aborted).
type Error struct {
	Op     string     // what was tried, such as "dial", "exec", "list sessions"
	Guest  string     // the target as given to Dial
	Code   codes.Code // the gRPC code
	Reason string     // a stable word, such as ReasonUnreachable; never empty
	Remedy string     // what to do about it, for people; may be empty

	// The following are of the agent, and empty if it said nothing.

	Operation string // the operation that failed in the guest, such as "open"
	Path      []byte // what it failed on
	Errno     uint32 // the guest kernel's errno (Linux's numbers), or 0

	message string
	err     error
}

// Error says what was tried, on which guest, and what happened. It does not
// include the remedy. The text may come from the guest and hold any character.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	if e.Guest != "" {
		b.WriteString("guest " + e.Guest + ": ")
	}
	b.WriteString(e.message)
	return b.String()
}

// Message returns what happened, without Op and Guest.
func (e *Error) Message() string { return e.message }

// Unwrap returns the cause, or the errno where it has the guest's meaning.
func (e *Error) Unwrap() []error {
	var causes []error
	if e.err != nil {
		causes = append(causes, e.err)
	}
	if e.Errno != 0 && errnoIsLinux {
		causes = append(causes, syscall.Errno(e.Errno))
	}
	return causes
}

// Timeout reports whether a time limit was over: the caller's, that of an attempt to
// connect, or one in the guest.
func (e *Error) Timeout() bool {
	if te, ok := errors.AsType[*transport.Error](e.err); ok && te.Timeout() {
		return true
	}
	return e.Code == codes.DeadlineExceeded || e.Reason == ReasonGuestBooting || e.Reason == ReasonNoAnswer
}

// Linux's numbers of the errors that package io/fs has values for.
const (
	linuxEPERM  = 1
	linuxENOENT = 2
	linuxEACCES = 13
	linuxEEXIST = 17
	linuxEINVAL = 22
)

// Is gives the failures that other packages have values for their meaning.
func (e *Error) Is(target error) bool {
	switch target {
	case exec.ErrNotFound:
		// As in os/exec: a name that was looked up, not a path.
		return e.Reason == ReasonNotFound && bytes.IndexByte(e.Path, '/') < 0
	case fs.ErrNotExist:
		return e.Errno == linuxENOENT || e.Reason == ReasonNotFound
	case fs.ErrPermission:
		return e.Errno == linuxEACCES || e.Errno == linuxEPERM || e.Reason == ReasonNotExecutable
	case fs.ErrExist:
		return e.Errno == linuxEEXIST
	case os.ErrDeadlineExceeded, context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	case context.Canceled:
		return e.Code == codes.Canceled && e.Reason == ReasonCanceled
	case transport.ErrGuestBooting:
		return e.Reason == ReasonGuestBooting
	}
	return false
}

// Remedy says what to do about an error of this package, for people: that of an
// [*Error], or of a failure with a file of this machine. It is empty where nothing
// is known, and for all other errors.
func Remedy(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Remedy
	}
	if f, ok := errors.AsType[*archive.Failure](err); ok {
		return f.Remedy
	}
	return ""
}

// GRPCStatus lets status.FromError and status.Code see the error.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Error()) }

// newError makes an error of this side.
func (g *Guest) newError(op string, code codes.Code, reason, message string) *Error {
	return &Error{Op: op, Guest: g.target, Code: code, Reason: reason, message: message}
}

// protocolError says that the guest broke the protocol.
func protocolError(format string, args ...any) *Error {
	return &Error{Code: codes.DataLoss, Reason: ReasonProtocol, message: "the guest broke the protocol: " + fmt.Sprintf(format, args...),
		Remedy: "the agent has a fault or is hostile; compare its version with this program's"}
}

// wrap turns what a call returned into an *Error. It returns nil for nil.
func (g *Guest) wrap(op, method string, err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		if own.Op == "" || own.Guest == "" {
			filled := *own
			filled.Op, filled.Guest = op, g.target
			return &filled
		}
		return own
	}
	e := convert(err)
	e.Op, e.Guest = op, g.target
	if e.Reason != "" {
		return e
	}
	switch e.Code {
	case codes.Unavailable:
		// The RPC layer has only the text of what was said.
		if wrong := g.identity.wrong(); wrong != nil {
			filled := *wrong
			filled.Op, filled.Guest = op, g.target
			return &filled
		}
		if strings.Contains(e.message, noTLSText) {
			e.Code, e.Reason, e.Remedy = codes.FailedPrecondition, ReasonNoTLS, "update guest-agent in the guest, or check what listens there"
			return e
		}
		if strings.Contains(e.message, noHTTP2Text) {
			e.Code, e.Reason = codes.FailedPrecondition, ReasonWrongProtocol
			e.Remedy = "check the address and port, and that guest-agent listens there"
			return e
		}
		if te := g.dialer.lastError(); te != nil {
			e.fromTransport(te)
			return e
		}
	case codes.Unimplemented:
		e.tooOld(method, g.cachedInfo())
	}
	e.complete()
	return e
}

// FromError returns err as an *Error: the one in its chain, or one made of the gRPC
// status or the error of transport, of a context or of a file that it is. It is nil for
// nil. Programs that call services through [Guest.Conn] learn the Reason by it.
func FromError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := convert(err)
	e.complete()
	return e
}

// convert makes an Error of what err says of itself. Its Reason is empty if that is
// none.
func convert(err error) *Error {
	e := &Error{}
	if te, ok := errors.AsType[*transport.Error](err); ok {
		e.fromTransport(te)
		return e
	}
	e.err, e.message = err, err.Error()
	if f, ok := errors.AsType[*archive.Failure](err); ok {
		e.Code, e.Reason, e.Remedy, e.Errno, e.Operation, e.Path = f.Code, f.Reason, f.Remedy, f.Errno, f.Op, []byte(f.Path)
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		e.Code = status.FromContextError(err).Code()
		return e
	}
	st, ok := status.FromError(err)
	if !ok {
		if pe, is := errors.AsType[*fs.PathError](err); is {
			e.Operation, e.Path = pe.Op, []byte(pe.Path)
		}
		e.Code, e.Reason, e.Remedy = archive.Classify(err)
		return e
	}
	e.Code, e.message = st.Code(), st.Message()
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *guestv1.ErrorDetail:
			e.Reason, e.Remedy, e.Errno, e.Operation, e.Path = d.Reason, d.Remedy, d.Errno, d.Operation, d.Path
		case *errdetails.ErrorInfo:
			if d.Domain == "vsockrpc" && e.Reason == "" {
				e.Reason = d.Reason
			}
		}
	}
	return e
}

// complete gives e the Reason that its Code stands for, if it has none.
func (e *Error) complete() {
	if e.Reason != "" {
		return
	}
	switch e.Code {
	case codes.Canceled:
		e.Reason = ReasonCanceled
	case codes.DeadlineExceeded:
		e.Reason = ReasonTimeout
	case codes.Unavailable:
		e.Reason, e.Remedy = ReasonUnreachable, "look at the guest; host-ctl doctor says which step fails"
	case codes.Unimplemented:
		e.Reason, e.Remedy = ReasonAgentTooOld, "update guest-agent in the guest"
	default:
		e.Reason = ReasonFailed
	}
}

// What crypto/tls and grpc say of a peer that speaks something else.
const (
	noTLSText   = "does not look like a TLS handshake"
	noHTTP2Text = "error reading server preface: http2:"
)

func (e *Error) fromTransport(te *transport.Error) {
	e.Code, e.Reason, e.err = te.Status().Code(), te.Kind.String(), te
	e.message, e.Remedy = te.Message(), te.Remedy()
}

// tooOld fills e in for an agent that lacks method.
func (e *Error) tooOld(method string, info *guestv1.InfoResponse) {
	name, since := strings.TrimPrefix(method, "/"), uint32(1)
	if d := declare.Method(method); d != nil {
		name, since = d.GetFeature(), d.GetSince()
	}
	if method == guestv1.AgentService_Info_FullMethodName {
		e.Reason = ReasonNotAnAgent
		e.message = "what answers there is not a guest-agent: " + e.message
		e.Remedy = "check the port, and that guest-agent listens on it"
		return
	}
	e.Reason = ReasonAgentTooOld
	version := info.GetVersion()
	if version == "" {
		version = "unknown"
	}
	e.message = fmt.Sprintf("agent too old for %s (agent version %s, protocol %d", name, version, info.GetProtocolVersion())
	if info.GetProtocolVersion() < since {
		e.message += fmt.Sprintf("; needs protocol %d", since)
	}
	e.message += ")"
	e.Remedy = "update guest-agent in the guest"
}
