package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestStatus(t *testing.T) {
	cause := &fs.PathError{Op: "open", Path: "/a\xff", Err: syscall.ENOENT}
	err := error(New(codes.NotFound, "not-found", "open %s: no such file", "/a\xff").On("open", "/a\xff", cause).Hint("make it"))

	st, ok := status.FromError(err)
	if !ok {
		t.Fatal("not a status")
	}
	if st.Code() != codes.NotFound {
		t.Errorf("code = %v, want NotFound", st.Code())
	}
	if got, want := st.Message(), "open /a\uFFFD: no such file"; got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
	want := []any{&guestv1.ErrorDetail{
		Reason: "not-found", Remedy: "make it", Errno: uint32(syscall.ENOENT), Operation: "open", Path: []byte("/a\xff"),
	}}
	if diff := cmp.Diff(want, st.Details(), protocmp.Transform()); diff != "" {
		t.Errorf("details differ (-want +got):\n%s", diff)
	}
	if !errors.Is(fmt.Errorf("more: %w", err), fs.ErrNotExist) {
		t.Error("the errno is not found through the error")
	}
}

// TestLongText: an error repeats little of what the caller has sent.
func TestLongText(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	e := New(codes.InvalidArgument, "x", "no %s", long).On("open", long, nil)
	if n := len(e.Error()); n > maxText+10 || !utf8.ValidString(e.Error()) || len(e.path) > maxText {
		t.Errorf("%d bytes of text, %d of path", n, len(e.path))
	}
	if e := New(codes.NotFound, "x", "%s", "short").On("open", "/a", nil); e.Error() != "short" || e.path != "/a" {
		t.Errorf("%q of %q", e.Error(), e.path)
	}
}
