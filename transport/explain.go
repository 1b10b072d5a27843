package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"
)

// explain says in words what happened and what to do about it. Both are "" where
// the cause says it.
func (e *Error) explain() (what, remedy string) {
	a := e.Addr
	switch e.Kind {
	case KindNoVsock:
		return "this system has no vsock", "load its module (vhost_vsock on a host, vmw_vsock_virtio_transport in a guest), or use a vsock-mux: or unix: address"
	case KindNoSuchCID:
		switch a.CID {
		case CIDLocal:
			return "no vsock loopback", "load the module vsock_loopback"
		case CIDHost:
			return "no vsock device that leads to the host", "this machine is not a guest with one, or its module is not loaded"
		}
		return fmt.Sprintf("no VM with CID %d", a.CID), "start it, check its guest-cid, and that vhost_vsock is loaded"
	case KindGuestBooting:
		return "no answer: the guest is still booting, paused or hangs", "try again until it is up, or look at its console"
	case KindNotListening:
		if a.Net == NetworkUnix {
			return "nobody listens on this path", "start the server, or check the path"
		}
		return fmt.Sprintf("nobody listens on port %d there", a.Port), "start guest-agent, or check the port"
	case KindNoVMM:
		return "nobody serves the VMM's socket", "start the VM, or check the path of its vsock socket"
	case KindVMMClosed:
		return "the VMM hung up", fmt.Sprintf("nobody listens on port %d in the guest, the guest is still booting, or it has too many connections", a.Port)
	case KindBadHandshake:
		return "no CONNECT protocol behind this path", "check that it is the VMM's vsock socket; for a plain Unix socket write unix:" + a.Path
	case KindPermission:
		return e.explainPermission()
	case KindAddrInUse:
		if e.Op == "dial" {
			return "no free local port", "close other connections, or dial without a privileged port"
		}
		return "somebody listens there already", "stop it, or choose another address"
	case KindAddrNotAvail:
		if e.Op == "listen" {
			return "this machine does not have this CID", "listen on vsock:any"
		}
		return "this machine has no CID", "it has no vsock device, or its module is not loaded yet"
	case KindBadAddress:
		if errors.Is(e.Err, syscall.EINVAL) {
			return "the path is too long for a Unix socket", "the limit is about 107 bytes"
		}
		return "", "docs/sockets.md has the forms of addresses"
	case KindCanceled:
		return "canceled", ""
	case KindTimeout:
		return "the time was over", "give it more time"
	}
	return "", ""
}

func (e *Error) explainPermission() (what, remedy string) {
	switch {
	case e.Op == "local-cid":
		return "no permission to read /dev/vsock", "run as root, or change the mode of the device"
	case e.Op == "listen" && e.Addr.Net == NetworkVsock && e.Addr.Port < firstUnprivilegedPort:
		return "listening on a port below 1024 needs root or CAP_NET_BIND_SERVICE", "get it, or choose a higher port"
	case e.Op == "dial" && e.Addr.Net == NetworkVsock:
		return "no permission", "a local port below 1024 needs root or CAP_NET_BIND_SERVICE, another network namespace needs CAP_SYS_ADMIN"
	case e.Addr.Net == NetworkMux || e.Addr.Net == NetworkUnix:
		return "no permission for the socket file", "run as its owner or root, or change the mode of the file or its directory"
	}
	return "the system refused", "run as root, or check what confines this process"
}

// kindOf maps the error of a system call made on a.Net to a kind.
func kindOf(op string, a Addr, err error) Kind {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	onPath := a.Net == NetworkMux || a.Net == NetworkUnix
	switch {
	case !onPath && is(syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT, errors.ErrUnsupported):
		return KindNoVsock
	case is(syscall.EACCES, syscall.EPERM, fs.ErrPermission):
		return KindPermission
	case is(syscall.EADDRINUSE, wsaEADDRINUSE):
		return KindAddrInUse
	case is(syscall.EADDRNOTAVAIL):
		if op == "dial" {
			return KindAddrInUse // no local port left
		}
		return KindAddrNotAvail
	case a.Net == NetworkVsock && op == "dial":
		switch {
		case is(syscall.ENODEV, syscall.ENXIO, syscall.EHOSTUNREACH, syscall.ENETUNREACH):
			return KindNoSuchCID
		case is(syscall.ETIMEDOUT):
			return KindGuestBooting
		case is(syscall.ECONNRESET, syscall.ECONNREFUSED):
			return KindNotListening
		}
	case op == "dial" && is(syscall.ECONNREFUSED, syscall.ENOTSOCK, fs.ErrNotExist, wsaECONNREFUSED):
		if a.Net == NetworkMux {
			return KindNoVMM
		}
		return KindNotListening
	case onPath && is(syscall.EINVAL):
		return KindBadAddress // what the kernel says to a path that is too long
	}
	return KindOther
}

// opError makes the *Error of a failed operation. ctx is the caller's context;
// waiting says that the attempt had reached the peer's side and that only its
// answer was missing.
func opError(ctx context.Context, op string, a Addr, waiting bool, err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return &Error{Op: op, Kind: KindCanceled, Addr: a, Err: withCause(ctx, context.Canceled)}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		// The poller may notice the deadline before the context does. The caller
		// may compare the error with ctx.Err(), so that must be set by then.
		if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
			<-ctx.Done()
		}
		kind := KindTimeout
		if waiting {
			kind = KindGuestBooting
		}
		return &Error{Op: op, Kind: kind, Addr: a, Err: withCause(ctx, context.DeadlineExceeded)}
	}
	kind := kindOf(op, a, err)
	if oe, ok := errors.AsType[*net.OpError](err); ok {
		err = oe.Err // the rest of it says again what Error says
	}
	return &Error{Op: op, Kind: kind, Addr: a, Err: err}
}

// withCause adds the cause of ctx to its error, if somebody gave it one.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
