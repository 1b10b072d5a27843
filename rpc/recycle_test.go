package rpc

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestContextOutlivesItsCall keeps the contexts of calls whose streams are recycled
// by the calls that follow: each goes on to belong to its own call, and lets nobody
// touch another one.
func TestContextOutlivesItsCall(t *testing.T) {
	type kept struct {
		ctx context.Context
		n   string
	}
	contexts := make(chan kept, 1000)
	handler := func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		k := kept{ctx, md.Get("n")[0]}
		if err := grpc.SetHeader(ctx, metadata.Pairs("n", k.n)); err != nil {
			return nil, err
		}
		contexts <- k
		return &emptypb.Empty{}, dec(&emptypb.Empty{})
	}
	desc := grpc.ServiceDesc{ServiceName: "test.Keep", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Call", Handler: handler}}}
	s := NewServer(quiet(nil))
	s.RegisterService(&desc, nil)
	c := NewClient(serveUnix(t, s), nil)
	defer c.Close()

	const calls = 200
	var watchers, callers sync.WaitGroup
	for range 4 {
		watchers.Go(func() {
			for k := range contexts {
				<-k.ctx.Done()
				if err := k.ctx.Err(); !errors.Is(err, context.Canceled) {
					t.Errorf("Err = %v", err)
				}
				if md, _ := metadata.FromIncomingContext(k.ctx); len(md.Get("n")) != 1 || md.Get("n")[0] != k.n {
					t.Errorf("the context of call %s has the metadata %v", k.n, md)
				}
				ts := grpc.ServerTransportStreamFromContext(k.ctx)
				if ts.Method() != "/test.Keep/Call" {
					t.Errorf("Method = %q", ts.Method())
				}
				// The context ends a moment before its stream is given back.
				for status.Code(ts.SetHeader(metadata.Pairs("late", k.n))) != codes.Internal {
					time.Sleep(time.Millisecond)
				}
				for name, err := range map[string]error{
					"SetHeader":  ts.SetHeader(metadata.Pairs("n", "late")),
					"SendHeader": ts.SendHeader(metadata.Pairs("n", "late")),
				} {
					if status.Code(err) != codes.Internal {
						t.Errorf("%s after the call: %v", name, err)
					}
				}
			}
		})
	}
	for i := range 8 {
		callers.Go(func() {
			for j := range calls {
				n := strconv.Itoa(i*calls + j)
				ctx := metadata.AppendToOutgoingContext(t.Context(), "n", n)
				var h metadata.MD
				if err := c.Invoke(ctx, "/test.Keep/Call", &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&h)); err != nil {
					t.Error(err)
					return
				}
				if got := h.Get("n"); len(got) != 1 || got[0] != n || len(h.Get("late")) != 0 {
					t.Errorf("call %s has the header %v", n, h)
				}
			}
		})
	}
	callers.Wait()
	close(contexts)
	watchers.Wait()
}

// TestConnectionsRecycleTheirBuffers: a connection that has ended leaves the memory
// for reading and writing to the next.
func TestConnectionsRecycleTheirBuffers(t *testing.T) {
	dial := serveUnix(t, newEchoServer(nil, nil))
	one := func() {
		c := NewClient(dial, nil)
		defer c.Close()
		if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
			t.Fatal(err)
		}
	}
	const n = 100
	var before, after runtime.MemStats
	one()
	runtime.ReadMemStats(&before)
	for range n {
		one()
	}
	runtime.ReadMemStats(&after)
	// It is 16 KiB, and 90 with -race, where sync.Pool drops much of what it is given.
	// Not to give back what was read into adds 70.
	if per := (after.TotalAlloc - before.TotalAlloc) / n; per > 125<<10 {
		t.Errorf("%d bytes for each connection", per)
	}
}
