package rpc

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// freedBlob spoils its data when it is freed, and says so.
type freedBlob struct {
	blob
	freed chan<- struct{}
}

func (b *freedBlob) Free() {
	clear(b.data)
	b.release()
	b.freed <- struct{}{}
}

// TestReplyIsFreedOnce sends replies that are spoilt and recycled once they are
// freed: not before they are sent, and whether they are or not.
func TestReplyIsFreedOnce(t *testing.T) {
	const calls = 40
	freed := make(chan struct{}, 1000)
	handler := func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		m := &freedBlob{freed: freed}
		err := dec(m)
		if len(m.data) == 7 {
			err = status.Error(codes.Aborted, "not sent")
		}
		return m, err
	}
	desc := grpc.ServiceDesc{ServiceName: "test.Free", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: handler}}}
	for _, which := range []string{"native/unix", "native/pipe"} {
		t.Run(which, func(t *testing.T) {
			s := NewServer(quiet(serverConfigFor(which)))
			s.RegisterService(&desc, nil)
			c := clientFor(t, serveFor(t, s, which), which).(*Client)
			ctx := wait.Context(t)
			sizes := []int{0, 7, 100, 20_000, 64 << 10, 300_000, 2 << 20, 5 << 20}
			var wg sync.WaitGroup
			for i, size := range sizes {
				wg.Go(func() {
					data := bytes.Repeat([]byte{byte(i + 1)}, size)
					var out blob
					defer out.release()
					for range calls {
						err := c.Invoke(ctx, "/test.Free/Echo", &blob{data: data}, &out)
						switch {
						case size == 7 && status.Code(err) == codes.Aborted:
						case size > DefaultMaxRecvMsgSize && status.Code(err) == codes.ResourceExhausted:
						case err != nil || !bytes.Equal(out.data, data):
							t.Errorf("%d bytes came as %d, %v", size, len(out.data), err)
							return
						}
					}
				})
			}
			wg.Wait()
			s.GracefulStop()
			for i := range calls * len(sizes) {
				select {
				case <-freed:
				case <-ctx.Done():
					t.Fatalf("%d replies of %d were freed", i, calls*len(sizes))
				}
			}
			if len(freed) > 0 {
				t.Errorf("%d replies were freed twice", len(freed))
			}
		})
	}
}
