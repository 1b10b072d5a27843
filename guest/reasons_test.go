package guest

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// TestReasons compares the exported words with those of docs/errors.md, both ways.
func TestReasons(t *testing.T) {
	doc, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(doc), "## host-ctl")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(text, -1) {
		for _, word := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(row[1], -1) {
			documented[word[1]] = true
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "reasons.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok {
			word, _ := strconv.Unquote(lit.Value)
			exported[word] = true
		}
		return true
	})
	for word := range documented {
		if !exported[word] {
			t.Errorf("package guest has no constant for %q of docs/errors.md", word)
		}
	}
	for word := range exported {
		if !documented[word] {
			t.Errorf("docs/errors.md lacks %q of package guest", word)
		}
	}
	if len(exported) < 90 {
		t.Errorf("%d words", len(exported))
	}
}

func statusOf(t *testing.T, code codes.Code, details ...*guestv1.ErrorDetail) error {
	t.Helper()
	st := status.New(code, "text")
	for _, d := range details {
		var err error
		if st, err = st.WithDetails(d); err != nil {
			t.Fatal(err)
		}
	}
	return st.Err()
}

func TestFromError(t *testing.T) {
	if FromError(nil) != nil {
		t.Error("nil is an error")
	}
	own := &Error{Reason: ReasonLeft}
	withInfo, err := status.New(codes.FailedPrecondition, "text").WithDetails(&errdetails.ErrorInfo{Reason: "wrong-protocol", Domain: "vsockrpc"})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := status.New(codes.FailedPrecondition, "text").WithDetails(&errdetails.ErrorInfo{Reason: "QUOTA", Domain: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		err     error
		code    codes.Code
		reason  string
		timeout bool
	}{
		{errors.Join(errors.New("x"), own), codes.OK, ReasonLeft, false},
		{statusOf(t, codes.NotFound, &guestv1.ErrorDetail{Reason: "no-session", Remedy: "r"}), codes.NotFound, ReasonNoSession, false},
		{withInfo.Err(), codes.FailedPrecondition, ReasonWrongProtocol, false},
		{foreign.Err(), codes.FailedPrecondition, ReasonFailed, false},
		{statusOf(t, codes.Internal), codes.Internal, ReasonFailed, false},
		{statusOf(t, codes.Unavailable), codes.Unavailable, ReasonUnreachable, false},
		{statusOf(t, codes.Unimplemented), codes.Unimplemented, ReasonAgentTooOld, false},
		{statusOf(t, codes.DeadlineExceeded), codes.DeadlineExceeded, ReasonTimeout, true},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ReasonTimeout, true},
		{context.Canceled, codes.Canceled, ReasonCanceled, false},
		{&transport.Error{Op: "dial", Kind: transport.KindNoSuchCID, Addr: transport.VsockAddr(3, 1)}, codes.Unavailable, ReasonNoSuchCID, false},
		{&transport.Error{Op: "dial", Kind: transport.KindGuestBooting}, codes.Unavailable, ReasonGuestBooting, true},
		{&fs.PathError{Op: "open", Path: "/x", Err: fs.ErrNotExist}, codes.NotFound, ReasonNotFound, false},
		{errors.New("odd"), codes.Unknown, ReasonFailed, false},
	}
	for _, tt := range tests {
		e := FromError(tt.err)
		if e.Code != tt.code || e.Reason != tt.reason || e.Timeout() != tt.timeout {
			t.Errorf("%v: code %v, reason %q, timeout %v; want %v, %q, %v", tt.err, e.Code, e.Reason, e.Timeout(), tt.code, tt.reason, tt.timeout)
		}
		var timeout net.Error
		if errors.As(error(e), &timeout) && timeout.Timeout() != tt.timeout {
			t.Errorf("%v: as net.Error %v", tt.err, timeout.Timeout())
		}
	}
	if e := FromError(tests[10].err); e.Remedy == "" || strings.Contains(e.Message(), e.Remedy) {
		t.Errorf("message %q, remedy %q", e.Message(), e.Remedy)
	}
	if e := FromError(tests[1].err); e.Remedy != "r" || e.Message() != "text" {
		t.Errorf("message %q, remedy %q", e.Message(), e.Remedy)
	}
}

// TestWrongProtocol: what speaks something else will still do so later, over both wires.
func TestWrongProtocol(t *testing.T) {
	for _, wire := range []Wire{WireNative, WireGRPC} {
		dial := func(context.Context) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				go server.Write([]byte("SSH-2.0-OpenSSH_9.9\r\n"))
				for b := make([]byte, 1024); ; {
					if _, err := server.Read(b); err != nil {
						return
					}
				}
			}()
			return client, nil
		}
		_, err := Dial(t.Context(), "unix:/s", &Config{Wire: wire, Dialer: dial})
		if e := FromError(err); e == nil || e.Reason != ReasonWrongProtocol || Temporary(err) || e.Code != codes.FailedPrecondition {
			t.Errorf("%s: %v", wire, err)
		}
	}
}

// TestLostSessionIsFinal: neither this package nor a retrier by codes runs it again.
func TestLostSessionIsFinal(t *testing.T) {
	for _, err := range []error{
		sessionLost(&Error{Code: codes.Unavailable, Reason: ReasonAgentRestarted}),
		&Error{Code: codes.Unavailable, Reason: ReasonAgentRestarted}, // of an older agent
	} {
		if Temporary(err) {
			t.Errorf("%v is temporary", err)
		}
	}
	if code := status.Code(sessionLost(&Error{Code: codes.Unavailable})); code != codes.Aborted {
		t.Errorf("code %v", code)
	}
}
