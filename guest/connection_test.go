package guest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// lastConn keeps the connections that a fakeAgent was reached by.
type lastConn struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (l *lastConn) keep(c net.Conn) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, c)
	return c
}

func (l *lastConn) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

func TestHooks(t *testing.T) {
	f := newFakeAgent(t)
	var last lastConn
	f.cut = last.keep
	events := make(chan string, 100)
	release := make(chan struct{})
	cfg := f.config()
	cfg.OnConnect = func(g *Guest, info *guestv1.InfoResponse) {
		if _, err := g.Info(t.Context()); err != nil {
			t.Errorf("a call in a hook: %v", err)
		}
		events <- "connected to " + info.GetVersion()
	}
	cfg.OnLost = func(*Guest) {
		events <- "lost"
		<-release
	}
	g, err := Dial(t.Context(), "fake", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := <-events; got != w {
				t.Fatalf("%q, want %q", got, w)
			}
		}
	}
	expect("connected to v1.2.3")
	last.cut()
	expect("lost")
	// While that call blocks, the connection comes back and is lost, again and again.
	for range 3 {
		if _, err := g.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		last.cut()
		wait.For(t, "the loss is noticed", func() bool {
			g.hooks.mu.Lock()
			defer g.hooks.mu.Unlock()
			return g.hooks.conn == nil
		})
	}
	if _, err := g.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(release)
	expect("connected to v1.2.3")
	g.Close()
	wait.For(t, "no hook runs", func() bool {
		g.hooks.mu.Lock()
		defer g.hooks.mu.Unlock()
		return !g.hooks.running
	})
	if len(events) > 0 {
		t.Errorf("after Close: %q", <-events)
	}
}

// TestInterceptors shows that interceptors see the calls of the SDK and of Conn, the
// first outermost.
func TestInterceptors(t *testing.T) {
	f := newFakeAgent(t)
	f.exec = func(open *guestv1.Open, st execServer) error {
		st.Send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Opened{Opened: openedMessage(open)}})
		return st.Send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: &guestv1.Exit{Code: new(uint32)}}})
	}
	var seen []string
	cfg := f.config()
	for _, name := range []string{"a", "b"} {
		cfg.UnaryInterceptors = append(cfg.UnaryInterceptors, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			seen = append(seen, fmt.Sprintf("%s %s %T", name, method[strings.LastIndex(method, "/")+1:], reply))
			return invoke(ctx, method, req, reply, cc, opts...)
		})
		cfg.StreamInterceptors = append(cfg.StreamInterceptors, func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			seen = append(seen, name+" "+method[strings.LastIndex(method, "/")+1:])
			return open(ctx, desc, cc, method, opts...)
		})
	}
	g, err := Dial(t.Context(), "fake", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	check := func(what string, want ...string) {
		t.Helper()
		if fmt.Sprint(seen) != fmt.Sprint(want) {
			t.Errorf("%s: %q, want %q", what, seen, want)
		}
		seen = nil
	}
	check("Dial", "a Info *guestv1.InfoResponse", "b Info *guestv1.InfoResponse")
	if err := g.Command(t.Context(), "true").Run(); err != nil {
		t.Fatal(err)
	}
	check("Run", "a Exec", "b Exec")
	if _, err := guestv1.NewAgentServiceClient(g.Conn()).Info(t.Context(), &guestv1.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	check("Conn", "a Info *guestv1.InfoResponse", "b Info *guestv1.InfoResponse")
}

// TestLogRecords shows that records name the guest, and the session by its id.
func TestLogRecords(t *testing.T) {
	f := newFakeAgent(t)
	var last lastConn
	f.cut = last.keep
	attached, started := 0, make(chan struct{})
	f.exec = func(open *guestv1.Open, st execServer) error {
		st.Send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Opened{Opened: openedMessage(open)}})
		if attached++; attached == 1 {
			<-started
			last.cut()
			return nil
		}
		return st.Send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: &guestv1.Exit{Code: new(uint32)}}})
	}
	var log bytes.Buffer
	cfg := f.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	g, err := Dial(t.Context(), "fake", cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := g.Command(t.Context(), "true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	g.Close()
	for _, message := range []string{"connection lost: attaching again", "attached again"} {
		found := false
		for line := range strings.Lines(log.String()) {
			found = found || strings.Contains(line, `msg="`+message+`"`) && strings.Contains(line, " guest=fake ") && strings.Contains(line, " session="+cmd.ID.String()+" ")
		}
		if !found {
			t.Errorf("no record %q of guest fake, session %v:\n%s", message, cmd.ID, &log)
		}
	}
}
