package rpc

import (
	"bytes"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// explainPeer says what a peer that sent b first, instead of magic, seems to be,
// and what to do.
func explainPeer(b []byte) string {
	switch {
	case len(b) >= 9 && b[0] == 0 && b[3] == 4 && bytes.Equal(b[5:9], []byte{0, 0, 0, 0}):
		return "the peer speaks HTTP/2, so it is a gRPC server without the native wire: use the wire \"grpc\", or a newer agent"
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return "the peer is an HTTP/1 server, not an agent: check the address and port"
	case bytes.HasPrefix(b, []byte(wire.AnyMagic)):
		return "the peer speaks another version of the native wire: use the wire \"grpc\", or bring both sides to the same version"
	case bytes.HasPrefix(b, []byte("SSH-")):
		return "the peer is an SSH server, not an agent: check the address and port"
	case len(b) >= 3 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3:
		return "the peer wants TLS: give the client keys"
	}
	return fmt.Sprintf("the peer's first bytes %q are of no protocol known here: check the address and port", b[:min(24, len(b))])
}

// ReasonWrongProtocol is the reason, in the google.rpc.ErrorInfo detail with the domain
// "vsockrpc", of calls that fail because the peer does not speak the native wire. Their
// code is FailedPrecondition: to call again does not help.
const ReasonWrongProtocol = "wrong-protocol"

// notNative is the error of a peer that speaks something else.
type notNative struct{ text string }

func (e *notNative) Error() string { return e.text }

// callError returns the error of the calls that fail because of e.
func (e *notNative) callError() error {
	st := status.New(codes.FailedPrecondition, "rpc: "+e.text)
	if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: ReasonWrongProtocol, Domain: "vsockrpc"}); err == nil {
		st = detailed
	}
	return st.Err()
}

// asNotNative returns the notNative in err's chain, or nil.
func asNotNative(err error) *notNative {
	nn, _ := errors.AsType[*notNative](err)
	return nn
}
