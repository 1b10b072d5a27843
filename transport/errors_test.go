package transport

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestKindOf(t *testing.T) {
	vm, mux, unix := VsockAddr(3, 1), MuxAddr("/v", 1), UnixAddr("/u")
	tests := []struct {
		op   string
		addr Addr
		err  error
		want Kind
	}{
		{"dial", vm, syscall.EAFNOSUPPORT, KindNoVsock},
		{"listen", vm, syscall.EAFNOSUPPORT, KindNoVsock},
		{"available", Addr{}, syscall.EAFNOSUPPORT, KindNoVsock},
		{"available", Addr{}, errors.ErrUnsupported, KindNoVsock},
		{"available", Addr{}, syscall.EACCES, KindPermission},
		{"local-cid", Addr{}, fs.ErrPermission, KindPermission},
		{"dial", vm, syscall.ENODEV, KindNoSuchCID},
		{"dial", vm, syscall.EHOSTUNREACH, KindNoSuchCID},
		{"dial", vm, syscall.ETIMEDOUT, KindGuestBooting},
		{"dial", vm, syscall.ECONNRESET, KindNotListening},
		{"dial", vm, syscall.ECONNREFUSED, KindNotListening},
		{"dial", vm, syscall.EACCES, KindPermission},
		{"dial", vm, syscall.EPERM, KindPermission},
		{"dial", vm, syscall.EADDRINUSE, KindAddrInUse},
		{"dial", vm, syscall.EADDRNOTAVAIL, KindAddrInUse},
		{"dial", vm, syscall.EMFILE, KindOther},
		{"listen", vm, syscall.EADDRNOTAVAIL, KindAddrNotAvail},
		{"listen", vm, syscall.EADDRINUSE, KindAddrInUse},
		{"listen", vm, syscall.EACCES, KindPermission},
		{"listen", vm, syscall.ENODEV, KindOther},
		{"dial", mux, syscall.ENOENT, KindNoVMM},
		{"dial", mux, syscall.ECONNREFUSED, KindNoVMM},
		{"dial", mux, syscall.EACCES, KindPermission},
		{"dial", unix, syscall.ENOENT, KindNotListening},
		{"dial", unix, syscall.ECONNREFUSED, KindNotListening},
		{"dial", unix, syscall.EINVAL, KindBadAddress},
		{"dial", unix, syscall.EAFNOSUPPORT, KindOther},
		{"listen", unix, syscall.EADDRINUSE, KindAddrInUse},
		{"listen", unix, syscall.ENOENT, KindOther},
	}
	for _, tt := range tests {
		err := opError(t.Context(), tt.op, tt.addr, false, os.NewSyscallError("syscall", tt.err))
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Kind != tt.want || !errors.Is(err, tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("%s %v %v: %v, want kind %v", tt.op, tt.addr, tt.err, err, tt.want)
		}
	}
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		err  Error
		want string
	}{
		{
			Error{Op: "dial", Kind: KindNoSuchCID, Addr: VsockAddr(7, 1000), Err: syscall.ENODEV},
			"dial vsock:7:1000: no VM with CID 7: start it, check its guest-cid, and that vhost_vsock is loaded (no such device)",
		},
		{Error{Op: "dial", Kind: KindNoSuchCID, Addr: VsockAddr(CIDHost, 1)}, "leads to the host"},
		{Error{Op: "dial", Kind: KindNoSuchCID, Addr: VsockAddr(CIDLocal, 1)}, "load the module vsock_loopback"},
		{Error{Op: "dial", Kind: KindGuestBooting, Addr: VsockAddr(3, 1)}, "still booting"},
		{Error{Op: "dial", Kind: KindNotListening, Addr: VsockAddr(3, 77)}, "nobody listens on port 77"},
		{Error{Op: "dial", Kind: KindNotListening, Addr: UnixAddr("/u")}, "nobody listens on this path"},
		{Error{Op: "dial", Kind: KindNoVMM, Addr: MuxAddr("/v", 1)}, "start the VM"},
		{Error{Op: "dial", Kind: KindVMMClosed, Addr: MuxAddr("/v", 77)}, "nobody listens on port 77 in the guest"},
		{Error{Op: "dial", Kind: KindBadHandshake, Addr: MuxAddr("/v", 1)}, "write unix:/v"},
		{Error{Op: "dial", Kind: KindPermission, Addr: VsockAddr(3, 1)}, "CAP_NET_BIND_SERVICE"},
		{Error{Op: "dial", Kind: KindPermission, Addr: UnixAddr("/u")}, "socket file"},
		{Error{Op: "listen", Kind: KindPermission, Addr: VsockAddr(CIDAny, 1000)}, "choose a higher port"},
		{Error{Op: "local-cid", Kind: KindPermission}, "/dev/vsock"},
		{Error{Op: "available", Kind: KindPermission}, "the system refused"},
		{Error{Op: "available", Kind: KindNoVsock}, "no vsock"},
		{Error{Op: "listen", Kind: KindAddrInUse, Addr: UnixAddr("/u")}, "somebody listens there already"},
		{Error{Op: "dial", Kind: KindAddrInUse, Addr: VsockAddr(3, 1)}, "no free local port"},
		{Error{Op: "listen", Kind: KindAddrNotAvail, Addr: VsockAddr(9, 1)}, "listen on vsock:any"},
		{Error{Op: "local-cid", Kind: KindAddrNotAvail}, "has no CID"},
		{Error{Op: "dial", Kind: KindTimeout, Addr: UnixAddr("/u")}, "dial unix:/u: the time was over: give it more time$"},
		{Error{Op: "dial", Kind: KindOther, Addr: UnixAddr("/u"), Err: errors.New("odd")}, "^dial unix:/u: odd$"},
		{Error{Op: "dial", Kind: Kind(1000), Err: errors.New("odd")}, "^dial: odd$"},
	}
	for _, tt := range tests {
		want := regexp.MustCompile(strings.NewReplacer("(", `\(`, ")", `\)`).Replace(tt.want))
		if got := tt.err.Error(); !want.MatchString(got) {
			t.Errorf("%+v says %q, want %q", tt.err, got, tt.want)
		}
	}
}

// TestKinds checks the table of kinds against the code and docs/errors.md.
func TestKinds(t *testing.T) {
	doc, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]Kind{}
	for k := range Kind(len(kinds)) {
		word := k.String()
		if other, ok := seen[word]; ok || word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz-") != "" {
			t.Errorf("kind %d has the word %q, kind %d too", k, word, other)
		}
		seen[word] = k
		if !strings.Contains(string(doc), "| `"+word+"` |") {
			t.Errorf("docs/errors.md has no line for %q", word)
		}
		e := &Error{Op: "dial", Kind: k, Addr: VsockAddr(3, 1), Err: errors.New("cause")}
		if k != KindOther && k != KindCanceled && (e.Remedy() == "" || strings.Contains(e.Message(), e.Remedy())) {
			t.Errorf("%v: message %q, remedy %q", k, e.Message(), e.Remedy())
		}
		if k != KindBadAddress && !strings.Contains(e.Error(), e.Remedy()) || !strings.HasSuffix(strings.TrimSuffix(e.Message(), ")"), "cause") {
			t.Errorf("%v says %q; message %q, remedy %q", k, e, e.Message(), e.Remedy())
		}
		if _, ok := status.FromError(e); ok {
			t.Errorf("grpc-go takes %v for a status", k)
		}
		st := e.Status()
		if st.Code() == codes.OK || st.Code() == codes.Unknown || st.Message() != e.Error() {
			t.Errorf("%v has the status %v", k, st)
		}
		info, ok := st.Details()[0].(*errdetails.ErrorInfo)
		if !ok || info.Reason != word || info.Metadata["address"] != "vsock:3:1" {
			t.Errorf("%v has the details %v", k, st.Details())
		}
	}
	for _, k := range []Kind{-1, Kind(len(kinds))} {
		e := &Error{Kind: k}
		if k.String() != KindOther.String() || e.Temporary() || e.Status().Code() != codes.Unavailable {
			t.Errorf("unknown kind %d is %q, temporary %v, %v", k, k, e.Temporary(), e.Status())
		}
	}
}

func TestErrorIs(t *testing.T) {
	var err error = &Error{Op: "dial", Kind: KindGuestBooting, Err: syscall.ETIMEDOUT}
	err = fmt.Errorf("wrapped: %w", err)
	for target, want := range map[error]bool{
		ErrGuestBooting: true, ErrTimeout: true, syscall.ETIMEDOUT: true,
		ErrNotListening: false, ErrCanceled: false, syscall.ENODEV: false,
	} {
		if got := errors.Is(err, target); got != want {
			t.Errorf("errors.Is(err, %v) = %v", target, got)
		}
	}
	if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
		t.Errorf("%v is not a net.Error that timed out", err)
	}
	if errors.Is(&Error{Kind: KindNoSuchCID}, ErrTimeout) {
		t.Error("no-such-cid is a timeout")
	}
}
