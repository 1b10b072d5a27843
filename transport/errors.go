package transport

import (
	"context"
	"errors"
	"net"
	"os"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kind says which of the known failures an [*Error] is. Each kind has a stable
// word (String), listed with its remedy in docs/errors.md. A Kind is itself an
// error, so that it can be the target of errors.Is.
type Kind int

// The kinds of failure.
const (
	KindOther        Kind = iota // none of the below; see the cause
	KindNoVsock                  // this system has no AF_VSOCK
	KindNoSuchCID                // no VM with this CID, or no vsock device
	KindGuestBooting             // no answer: the guest is booting, paused or hangs
	KindNotListening             // the machine is there, nobody listens on the port or path
	KindNoVMM                    // the VMM's socket is absent or nobody serves it
	KindVMMClosed                // the VMM closed the connection instead of answering CONNECT
	KindBadHandshake             // what serves the socket does not speak the CONNECT protocol
	KindPermission               // the operating system refused
	KindAddrInUse                // somebody listens there already, or no privileged port is left
	KindAddrNotAvail             // the CID to listen on is not one of this machine
	KindBadAddress               // the address is malformed, or of no use for the operation
	KindCanceled                 // the context was canceled
	KindTimeout                  // the time was over before the attempt began to wait for the peer
)

// Values for errors.Is. ErrTimeout matches every [*Error] whose Timeout method
// reports true, so also one of KindGuestBooting.
var (
	ErrNoVsock      error = KindNoVsock
	ErrNoSuchCID    error = KindNoSuchCID
	ErrGuestBooting error = KindGuestBooting
	ErrNotListening error = KindNotListening
	ErrNoVMM        error = KindNoVMM
	ErrVMMClosed    error = KindVMMClosed
	ErrBadHandshake error = KindBadHandshake
	ErrPermission   error = KindPermission
	ErrAddrInUse    error = KindAddrInUse
	ErrAddrNotAvail error = KindAddrNotAvail
	ErrBadAddress   error = KindBadAddress
	ErrCanceled     error = KindCanceled
	ErrTimeout      error = KindTimeout
)

// kinds holds, for each kind, its word, the code of its gRPC status and
// whether trying again may help without anything being changed here.
var kinds = [...]struct {
	word      string
	code      codes.Code
	temporary bool
}{
	KindOther:        {"transport-error", codes.Unavailable, false},
	KindNoVsock:      {"no-vsock", codes.FailedPrecondition, false},
	KindNoSuchCID:    {"no-such-cid", codes.Unavailable, true},
	KindGuestBooting: {"guest-booting", codes.Unavailable, true},
	KindNotListening: {"not-listening", codes.Unavailable, true},
	KindNoVMM:        {"no-vmm", codes.Unavailable, true},
	KindVMMClosed:    {"vmm-closed", codes.Unavailable, true},
	KindBadHandshake: {"bad-handshake", codes.FailedPrecondition, false},
	KindPermission:   {"permission-denied", codes.PermissionDenied, false},
	KindAddrInUse:    {"address-in-use", codes.ResourceExhausted, true},
	KindAddrNotAvail: {"address-not-available", codes.FailedPrecondition, false},
	KindBadAddress:   {"bad-address", codes.InvalidArgument, false},
	KindCanceled:     {"canceled", codes.Canceled, false},
	KindTimeout:      {"timeout", codes.DeadlineExceeded, true},
}

// String returns the stable word of k, such as "no-such-cid".
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kinds) {
		return kinds[KindOther].word
	}
	return kinds[k].word
}

// Error returns the same as String.
func (k Kind) Error() string { return k.String() }

// Error is a failure to dial, to listen, or to learn something about vsock on
// this system. It is a net.Error.
type Error struct {
	Op   string // "dial", "listen", "parse", "local-cid", "available" or "activation"
	Kind Kind
	Addr Addr  // the zero Addr if the failure has none
	Err  error // the cause; may be nil
}

var _ net.Error = (*Error)(nil)

// Error says what happened, what to do about it, and the cause.
func (e *Error) Error() string {
	what, remedy := e.explain()
	if what != "" && remedy != "" {
		what += ": " + remedy
	}
	return e.text(what)
}

// Message returns what happened and the cause, without what to do about it.
func (e *Error) Message() string {
	what, _ := e.explain()
	return e.text(what)
}

// Remedy returns what to do about it, for people; it may be empty.
func (e *Error) Remedy() string {
	_, remedy := e.explain()
	return remedy
}

func (e *Error) text(what string) string {
	s := e.Op
	if e.Addr != (Addr{}) {
		s += " " + e.Addr.String()
	}
	switch {
	case what != "" && e.Err != nil:
		s += ": " + what + " (" + e.Err.Error() + ")"
	case what != "":
		s += ": " + what
	case e.Err != nil:
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause: a system call's error, the error of the context,
// or nil.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is e's Kind. ErrTimeout also stands for every
// other error that is a timeout.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && (k == e.Kind || k == KindTimeout && e.Timeout())
}

// Timeout reports whether the attempt ended because of its time limit: that of
// the context, of the DialConfig or of the kernel.
func (e *Error) Timeout() bool {
	switch e.Kind {
	case KindTimeout, KindGuestBooting:
		return true
	}
	return errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, os.ErrDeadlineExceeded)
}

// Temporary reports whether the same attempt may succeed later although
// nothing is changed on this side, as while a guest boots. It is what a caller
// that waits for a guest should go by.
func (e *Error) Temporary() bool {
	return e.Kind >= 0 && int(e.Kind) < len(kinds) && kinds[e.Kind].temporary
}

// Status returns the error as a gRPC status, with an ErrorInfo detail that has
// the kind's word as its reason. The method is not called GRPCStatus, by which
// grpc-go would find it by itself: a dialer's error that has a status of its
// own ends even those calls that are to wait until the guest is ready.
func (e *Error) Status() *status.Status {
	code := kinds[KindOther].code
	if e.Kind >= 0 && int(e.Kind) < len(kinds) {
		code = kinds[e.Kind].code
	}
	st := status.New(code, e.Error())
	info := &errdetails.ErrorInfo{Reason: e.Kind.String(), Domain: "vsockrpc"}
	if e.Addr != (Addr{}) {
		info.Metadata = map[string]string{"address": e.Addr.String()}
	}
	if detailed, err := st.WithDetails(info); err == nil {
		return detailed
	}
	return st
}
