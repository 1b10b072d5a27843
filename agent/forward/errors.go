//go:build linux

package forward

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
)

// The stable words of this package's errors (ErrorDetail.reason).
const (
	reasonTooMany    = "too-many-connections"
	reasonProtocol   = "protocol"
	reasonBadNetwork = "bad-network"
	reasonBadAddress = "bad-address"
	reasonRefused    = "connection-refused"
	reasonReset      = "connection-reset"
	reasonNoRoute    = "no-route"
	reasonNoHost     = "no-such-host"
	reasonNotFound   = "not-found"
	reasonPermission = "not-permitted"
	reasonTimeout    = "timed-out"
	reasonInUse      = "address-in-use"
	reasonNoConn     = "no-connection"
	reasonFiles      = "files-exhausted"
	reasonFailed     = "failed"
)

func protocolFault(text string) error {
	return fault.New(codes.InvalidArgument, reasonProtocol, "%s", text)
}

func unknownNetwork(network string) error {
	return fault.New(codes.InvalidArgument, reasonBadNetwork, "network %q is unknown", network).
		Hint("use tcp, tcp4, tcp6, udp, udp4, udp6, unix or unixgram")
}

// resetFault tells that the guest's end of a connection broke.
func resetFault(err error) error {
	return fault.New(codes.Aborted, reasonReset, "the guest's connection broke: %v", cause(err)).On("", "", err)
}

// dialFault tells why a connection could not be made.
func dialFault(network, address string, err error) error {
	code, reason, remedy := classify(err)
	return fault.New(code, reason, "connect to %s %s in the guest: %v", network, address, cause(err)).
		On("connect", address, err).Hint(remedy)
}

// listenFault tells why an address could not be listened on.
func listenFault(network, address string, err error) error {
	code, reason, remedy := classify(err)
	return fault.New(code, reason, "listen on %s %s in the guest: %v", network, address, cause(err)).
		On("listen", address, err).Hint(remedy)
}

// cause strips what net.OpError says of addresses, which the text has already.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func classify(err error) (code codes.Code, reason, remedy string) {
	dns, isDNS := errors.AsType[*net.DNSError](err)
	_, isAddr := errors.AsType[*net.AddrError](err)
	switch {
	case isRefused(err):
		return codes.Unavailable, reasonRefused, "start the server in the guest, or check the port"
	case errors.Is(err, context.Canceled):
		return codes.Canceled, reasonFailed, ""
	case isDNS && dns.IsNotFound:
		return codes.NotFound, reasonNoHost, "the name is looked up in the guest"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), isDNS && dns.IsTimeout:
		return codes.DeadlineExceeded, reasonTimeout, ""
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return codes.Unavailable, reasonNoRoute, "the guest has no route to the address"
	case errors.Is(err, syscall.ELOOP):
		return codes.PermissionDenied, reasonPermission, "the policy is about this path: name the socket by one without symbolic links"
	case errors.Is(err, os.ErrNotExist):
		return codes.NotFound, reasonNotFound, ""
	case errors.Is(err, os.ErrPermission):
		return codes.PermissionDenied, reasonPermission, ""
	case errors.Is(err, syscall.EADDRINUSE):
		return codes.AlreadyExists, reasonInUse, "another process of the guest has the address"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return codes.InvalidArgument, reasonBadAddress, "the guest does not have this address"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return codes.ResourceExhausted, reasonFiles, ""
	case isAddr, isDNS:
		return codes.InvalidArgument, reasonBadAddress, "give host:port, or the path of a socket"
	}
	return codes.Unknown, reasonFailed, ""
}
