package fault

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

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
