package rpc

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// bidi registers a service with one bidirectional method, "/test.Bidi/Call".
func bidi(s grpc.ServiceRegistrar, handler func(grpc.ServerStream) error) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Bidi",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "Call", ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error { return handler(stream) },
		}},
	}, struct{}{})
}

func callBidi(ctx context.Context, cc grpc.ClientConnInterface) (grpc.ClientStream, error) {
	return cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Bidi/Call")
}

// TestSendWhileReceiving has one goroutine of a handler send while another
// receives, as gRPC allows on both sides.
func TestSendWhileReceiving(t *testing.T) {
	const n, size = 200, 10_000
	pump := func(send, recv func(any) error) error {
		var wg sync.WaitGroup
		var err error
		wg.Go(func() {
			for range n {
				if err = send(wrapperspb.Bytes(make([]byte, size))); err != nil {
					return
				}
			}
		})
		for range n {
			if err := recv(new(wrapperspb.BytesValue)); err != nil {
				return err
			}
		}
		wg.Wait()
		return err
	}
	s := NewServer(nil)
	bidi(s, func(ss grpc.ServerStream) error { return pump(ss.SendMsg, ss.RecvMsg) })
	cc := clientFor(t, serveFor(t, s, "native/unix"), "native/unix")
	stream, err := callBidi(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	if err := pump(stream.SendMsg, stream.RecvMsg); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(wrapperspb.BytesValue)); err != io.EOF {
		t.Errorf("after the last message: %v, want io.EOF", err)
	}
}

// TestHandlerReturnsWhileSending has a handler return while another of its
// goroutines is in the middle of a large message, which ends that call and no
// other.
func TestHandlerReturnsWhileSending(t *testing.T) {
	s := NewServer(nil)
	var calls atomic.Int32
	var wg sync.WaitGroup
	bidi(s, func(ss grpc.ServerStream) error {
		if calls.Add(1)%2 == 0 {
			return nil
		}
		wg.Go(func() {
			for ss.SendMsg(wrapperspb.Bytes(make([]byte, 300<<10))) == nil {
			}
		})
		if err := ss.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
			return err
		}
		return status.Error(codes.Aborted, "enough")
	})
	dial := serveFor(t, s, "native/unix")
	var dials atomic.Int32
	cc := clientFor(t, func(ctx context.Context) (net.Conn, error) { dials.Add(1); return dial(ctx) }, "native/unix")
	for range 50 {
		stream, err := callBidi(t.Context(), cc)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(wrapperspb.Bytes(nil)); err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; err = stream.RecvMsg(new(wrapperspb.BytesValue)) {
		}
		if status.Code(err) != codes.Aborted {
			t.Fatalf("the call ended with %v, want Aborted", err)
		}
		quick, err := callBidi(t.Context(), cc)
		if err != nil {
			t.Fatal(err)
		}
		if err := quick.RecvMsg(new(wrapperspb.BytesValue)); err != io.EOF {
			t.Fatalf("the next call ended with %v, want io.EOF", err)
		}
	}
	wg.Wait()
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1: a handler broke the others", n)
	}
}
