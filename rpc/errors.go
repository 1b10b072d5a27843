package rpc

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// goneError is why the peer has ended the connection, as its GOAWAY says.
type goneError struct {
	code wire.Code
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
	var ce *wire.Error
	if errors.As(err, &ge) {
		code = ge.code.Status()
	} else if errors.As(err, &ce) {
		code = ce.Code.Status()
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
