package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
)

// TestBytesMessageOwnership: a payload is its sender's again as soon as SendMsg has
// returned, and a received one its receiver's until it is released. Both sides
// overwrite what is theirs, over the native wire and over HTTP/2, where the other
// side uses the generated type.
func TestBytesMessageOwnership(t *testing.T) {
	sizes := []int{1, 100, 4 << 10, sock.RefFrom - 1, sock.RefFrom + 1, 64 << 10, 200 << 10}
	e := &echo{both: func(st grpc.ServerStream) error {
		var in blob
		for {
			if err := st.RecvMsg(&in); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			out := blob{data: bytes.Clone(in.data)}
			in.release()
			if err := st.SendMsg(&out); err != nil {
				return err
			}
			clear(out.data)
		}
	}}
	for _, which := range []string{"native/unix", "native/pipe", "http2/unix"} {
		t.Run(which, func(t *testing.T) {
			s := newEchoServer(e, nil)
			cc := clientFor(t, serveFor(t, s, which), which)
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					st, err := cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both", grpc.ForceCodecV2(Codec()))
					if err != nil {
						t.Error(err)
						return
					}
					buf := make([]byte, 200<<10)
					var held []*blob
					for n := range 40 {
						fill := byte(i*40 + n)
						out := buf[:sizes[n%len(sizes)]]
						for k := range out {
							out[k] = fill
						}
						if err := st.SendMsg(&blob{data: out}); err != nil {
							t.Error(err)
							return
						}
						clear(out)
						in := new(blob)
						if err := st.RecvMsg(in); err != nil || len(in.data) != len(out) || bytes.Count(in.data, []byte{fill}) != len(out) {
							t.Errorf("message %d: %d bytes of %d are right: %v", n, bytes.Count(in.data, []byte{fill}), len(out), err)
							return
						}
						if held = append(held, in); len(held) > 3 {
							old := held[0]
							held = held[1:]
							if c := old.data[0]; bytes.Count(old.data, []byte{c}) != len(old.data) {
								t.Error("a message changed while it was held")
							}
							old.release()
						}
					}
					if err := st.CloseSend(); err != nil {
						t.Error(err)
					}
					if err := st.RecvMsg(new(wrapperspb.BytesValue)); !errors.Is(err, io.EOF) {
						t.Errorf("end: %v", err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// recorder is a stats.Handler that notes the kinds of events.
type recorder struct {
	mu   sync.Mutex
	seen []string
	done chan struct{}
}

type recorderKey struct{}

func (r *recorder) TagRPC(ctx context.Context, i *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, recorderKey{}, i.FullMethodName)
}

func (r *recorder) HandleRPC(ctx context.Context, e stats.RPCStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Value(recorderKey{}) != "/test.Echo/Echo" {
		r.seen = append(r.seen, "untagged")
	}
	r.seen = append(r.seen, strings.TrimPrefix(fmt.Sprintf("%T", e), "*stats."))
	if _, ok := e.(*stats.End); ok {
		close(r.done)
	}
}

func (r *recorder) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (r *recorder) HandleConn(context.Context, stats.ConnStats)                       {}

func TestStatsHandlers(t *testing.T) {
	server, client := &recorder{done: make(chan struct{})}, &recorder{done: make(chan struct{})}
	s := newEchoServer(nil, &ServerConfig{StatsHandlers: []stats.Handler{server}})
	c := NewClient(serveUnix(t, s), &ClientConfig{StatsHandlers: []stats.Handler{client}})
	defer c.Close()
	if _, err := call(t, c, "x"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		r    *recorder
		want []string
	}{
		{server, []string{"InHeader", "Begin", "InPayload", "OutPayload", "OutTrailer", "End"}},
		{client, []string{"Begin", "OutHeader", "OutPayload", "InPayload", "InTrailer", "End"}},
	} {
		<-tc.r.done
		tc.r.mu.Lock()
		if diff := cmp.Diff(tc.want, tc.r.seen); diff != "" {
			t.Error(diff)
		}
		tc.r.mu.Unlock()
	}
}
