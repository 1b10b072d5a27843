package guest_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/guest"
)

// tally counts the bytes of the messages of each method.
type tally struct {
	mu      sync.Mutex
	in, out map[string]int
	conns   int
	ended   map[string]int
}

func newTally() *tally {
	return &tally{in: make(map[string]int), out: make(map[string]int), ended: make(map[string]int)}
}

type methodKey struct{}

func (*tally) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, info.FullMethodName[strings.LastIndex(info.FullMethodName, "/")+1:])
}

func (s *tally) HandleRPC(ctx context.Context, e stats.RPCStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	method, _ := ctx.Value(methodKey{}).(string)
	switch e := e.(type) {
	case *stats.InPayload:
		s.in[method] += e.Length
	case *stats.OutPayload:
		s.out[method] += e.Length
	case *stats.End:
		s.ended[method]++
	}
}

func (*tally) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (s *tally) HandleConn(_ context.Context, e stats.ConnStats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := e.(*stats.ConnBegin); ok {
		s.conns++
	}
}

// TestStatsHandlers shows that both sides' handlers see calls, connections and the
// bytes of commands and forwarded connections, on both wires; and that the agent's
// interceptors see its calls.
func TestStatsHandlers(t *testing.T) {
	const size = 300_000
	for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
		t.Run(string(wire), func(t *testing.T) {
			atAgent, atHost := newTally(), newTally()
			var mu sync.Mutex
			intercepted := make(map[string]int)
			note := func(method string) {
				mu.Lock()
				defer mu.Unlock()
				intercepted[method[strings.LastIndex(method, "/")+1:]]++
			}
			a, err := agent.New(&agent.Config{
				Logger: slog.New(slog.DiscardHandler), Access: access.Rules{Mode: access.ModeEmbedded}, StatsHandlers: []stats.Handler{atAgent},
				UnaryInterceptors: []grpc.UnaryServerInterceptor{func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
					note(info.FullMethod)
					return h(ctx, req)
				}},
				StreamInterceptors: []grpc.StreamServerInterceptor{func(srv any, st grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
					note(info.FullMethod)
					return h(srv, st)
				}},
			})
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- a.Serve(l) }()
			g, err := guest.Dial(t.Context(), "unix:"+l.Addr().String(), &guest.Config{Wire: wire, StatsHandlers: []stats.Handler{atHost}})
			if err != nil {
				t.Fatal(err)
			}
			cmd := g.Command(t.Context(), "cat")
			cmd.Stdin = strings.NewReader(strings.Repeat("x", size))
			if out, err := cmd.Output(); err != nil || len(out) != size {
				t.Fatalf("%d bytes, %v", len(out), err)
			}
			tcp := listenTCP(t)
			host, inGuest := dialPair(t, g, tcp)
			go func() {
				io.WriteString(host, strings.Repeat("y", size))
				host.Close()
			}()
			if n, err := io.Copy(io.Discard, inGuest); n != size || err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
			inGuest.Close()
			g.Close()
			a.Close()
			<-served
			for side, s := range map[string]*tally{"host": atHost, "agent": atAgent} {
				s.mu.Lock()
				for method, m := range map[string][2]int{"Exec": {size, size}, "Dial": {size, 0}} {
					in, out := m[0], m[1]
					if side == "host" {
						in, out = m[1], m[0]
					}
					if s.in[method] < in || s.in[method] > in+in/2+10_000 || s.out[method] < out || s.out[method] > out+out/2+10_000 {
						t.Errorf("%s: %s: %d bytes in and %d out, want %d and %d and some more", side, method, s.in[method], s.out[method], in, out)
					}
				}
				if s.conns != 1 || s.ended["Info"] == 0 || s.ended["Exec"] != 1 || s.ended["Dial"] != 1 {
					t.Errorf("%s: %d connections, ended %v", side, s.conns, s.ended)
				}
				s.mu.Unlock()
			}
			if intercepted["Info"] == 0 || intercepted["Exec"] != 1 || intercepted["Dial"] != 1 {
				t.Errorf("intercepted: %v", intercepted)
			}
		})
	}
}
