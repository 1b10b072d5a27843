package rpc

import (
	"context"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestChains runs three interceptors of each kind, on both sides and wires, in order.
func TestChains(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, s)
	}
	us := func(name string) grpc.UnaryServerInterceptor {
		return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			note(name)
			return h(ctx, req)
		}
	}
	ss := func(name string) grpc.StreamServerInterceptor {
		return func(srv any, st grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			note(name)
			return h(srv, st)
		}
	}
	uc := func(name string) grpc.UnaryClientInterceptor {
		return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			note(name)
			return invoke(ctx, method, req, reply, cc, opts...)
		}
	}
	sc := func(name string) grpc.StreamClientInterceptor {
		return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			note(name)
			return open(ctx, desc, cc, method, opts...)
		}
	}
	s := newEchoServer(&echo{both: func(grpc.ServerStream) error { return nil }}, &ServerConfig{
		UnaryInterceptor: us("s1"), UnaryInterceptors: []grpc.UnaryServerInterceptor{us("s2"), nil, us("s3")},
		StreamInterceptors: []grpc.StreamServerInterceptor{ss("t1"), ss("t2"), ss("t3")},
	})
	dial := serveUnix(t, s)
	c := NewClient(dial, &ClientConfig{
		UnaryInterceptors: []grpc.UnaryClientInterceptor{uc("c1"), uc("c2"), uc("c3")},
		StreamInterceptor: sc("d1"), StreamInterceptors: []grpc.StreamClientInterceptor{sc("d2"), sc("d3")},
	})
	defer c.Close()
	for _, cc := range []grpc.ClientConnInterface{c, dialHTTP2(t, dial, grpc.WithTransportCredentials(insecure.NewCredentials()))} {
		seen = nil
		if _, err := call(t, cc, "x"); err != nil {
			t.Fatal(err)
		}
		st, err := cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both")
		if err != nil {
			t.Fatal(err)
		}
		_ = st.RecvMsg(new(wrapperspb.BytesValue))
		want := []string{"s1", "s2", "s3", "t1", "t2", "t3"}
		if cc == c {
			want = []string{"c1", "c2", "c3", "s1", "s2", "s3", "d1", "d2", "d3", "t1", "t2", "t3"}
		}
		mu.Lock()
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Error(diff)
		}
		mu.Unlock()
	}
}
