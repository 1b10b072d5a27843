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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	"github.com/vsockrpc/vsockrpc/internal/declare"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// Reasons that this package makes itself. Those of the agent and those of
// package transport are passed on; docs/errors.md lists all.
const (
	ReasonNotAnAgent    = "not-an-agent"    // something answers there, but not a guest-agent
	ReasonAgentTooOld   = "agent-too-old"   // the agent lacks a method
	ReasonSessionLost   = "session-lost"    // the agent was restarted, or has forgotten the session
	ReasonUnreachable   = "unreachable"     // the connection was lost and did not come back in time
	ReasonNoAnswer      = "no-answer"       // the guest did not answer while it was dialed
	ReasonProtocol      = "protocol"        // the guest broke the protocol
	ReasonOutputLost    = "output-lost"     // output is gone that was not to be dropped
	ReasonWrongGuestKey = "wrong-guest-key" // the guest is not the one that was meant
	ReasonOtherGuest    = "other-guest"     // after a lost connection another guest answers
	ReasonNoTLS         = "no-tls"          // keys were to be shown, and the guest speaks no TLS
	ReasonBadTarget     = "bad-target"      // the target is no address and no known name
	ReasonLeft          = "left"            // Process.Release or Process.HangUp was called
	ReasonClosed        = "closed"          // Guest.Close was called
	ReasonIntoItself    = "into-itself"     // a directory was to be copied into itself
)

// Reasons of the agent that this package gives a meaning to.
const (
	reasonNotFound      = "not-found"
	reasonNotExecutable = "not-executable"

	reasonAgentRestarted = "agent-restarted"
	reasonAgentStopping  = "agent-stopping"
	reasonNoSession      = "no-session"
	reasonSessionGone    = "session-gone"
)

// Error is a failure of a call to a guest. errors.Is works with the errors of
// packages io/fs, os/exec and context where the failure is one of those, with
// syscall.Errno on Linux, and errors.As finds a *transport.Error behind it.
type Error struct {
	Op     string     // what was tried, such as "dial", "exec", "list sessions"
	Guest  string     // the target as given to Dial
	Code   codes.Code // the gRPC code
	Reason string     // a stable word, or empty if the guest gave none
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
		return e.Reason == reasonNotFound && bytes.IndexByte(e.Path, '/') < 0
	case fs.ErrNotExist:
		return e.Errno == linuxENOENT || e.Reason == reasonNotFound
	case fs.ErrPermission:
		return e.Errno == linuxEACCES || e.Errno == linuxEPERM || e.Reason == reasonNotExecutable
	case fs.ErrExist:
		return e.Errno == linuxEEXIST
	case os.ErrDeadlineExceeded, context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	case context.Canceled:
		return e.Code == codes.Canceled && e.Reason == ""
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
	e := &Error{Op: op, Guest: g.target}
	var te *transport.Error
	st, ok := status.FromError(err)
	switch {
	case errors.As(err, &te):
		return e.fromTransport(te)
	case !ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		e.Code, e.message, e.err = status.FromContextError(err).Code(), err.Error(), err
		return e
	}
	e.Code, e.message, e.err = st.Code(), st.Message(), err
	for _, d := range st.Details() {
		if d, ok := d.(*guestv1.ErrorDetail); ok {
			e.Reason, e.Remedy, e.Errno, e.Operation, e.Path = d.Reason, d.Remedy, d.Errno, d.Operation, d.Path
		}
	}
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
			e.Reason, e.Remedy = ReasonNoTLS, "update guest-agent in the guest, or check what listens there"
			return e
		}
		if te := g.dialer.lastError(); te != nil {
			return e.fromTransport(te)
		}
		e.Reason = ReasonUnreachable
	case codes.Unimplemented:
		e.tooOld(method, g.cachedInfo())
	}
	return e
}

// noTLSText is what crypto/tls says of a peer that speaks something else.
const noTLSText = "does not look like a TLS handshake"

func (e *Error) fromTransport(te *transport.Error) *Error {
	e.Code, e.Reason, e.err = te.Status().Code(), te.Kind.String(), te
	e.message = te.Error()
	return e
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
