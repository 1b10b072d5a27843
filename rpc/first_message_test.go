package rpc

import (
	"context"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestLargeFirstMessage begins a connection with a message beyond what the
// client may send before it has heard of the server.
func TestLargeFirstMessage(t *testing.T) {
	for _, size := range []int{60 << 10, 70 << 10, 200_000, 260_000, 1 << 20, 3 << 20} {
		s := NewServer(nil)
		bidi(s, func(ss grpc.ServerStream) error {
			m := new(wrapperspb.BytesValue)
			if err := ss.RecvMsg(m); err != nil {
				return err
			}
			return ss.SendMsg(m)
		})
		cc := clientFor(t, serveFor(t, s, "native/unix"), "native/unix")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		stream, err := callBidi(ctx, cc)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(wrapperspb.Bytes(make([]byte, size))); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		m := new(wrapperspb.BytesValue)
		if err := stream.RecvMsg(m); err != nil || len(m.Value) != size {
			t.Fatalf("%d bytes: got %d back, %v", size, len(m.Value), err)
		}
		if err := stream.RecvMsg(m); err != io.EOF {
			t.Errorf("%d bytes: %v, want io.EOF", size, err)
		}
	}
}
