//go:build linux

package hostile

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// TestAgentConnections: an agent has so many connections and no more; those that
// it has go on, and strangers have places of their own.
func TestAgentConnections(t *testing.T) {
	v := newVictim(t)
	// The honest client has one of them.
	const most = 1024 - 1
	for i := range most {
		if _, err := v.greeted(v.owner); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	call := func(dial func(context.Context) (net.Conn, error), timeout time.Duration) error {
		c := rpc.NewClient(dial, nil)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := guestv1.NewAgentServiceClient(c).Info(ctx, &guestv1.InfoRequest{})
		return err
	}
	if err := call(v.owner, patience); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "too many connections of this client") {
		t.Errorf("one more: %v", err)
	}
	if err := call(v.stranger, patience); err != nil {
		t.Errorf("a stranger: %v", err)
	}
	last, err := v.greeted(v.stranger)
	if err != nil {
		t.Fatal(err)
	}
	last.Close()
	v.connections[0].Close()
	// Its place comes free when the agent has noticed.
	wait.For(t, "a place comes free", func() bool { return call(v.owner, time.Second) == nil })
	for _, nc := range v.connections {
		nc.Close()
	}
	v.unharmed()
}

// greeted opens a native connection that the agent has greeted, and that is closed
// with the test.
func (v *victim) greeted(dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	nc, err := dial(v.t.Context())
	if err != nil {
		return nil, err
	}
	v.connections = append(v.connections, nc)
	v.t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	if _, err := nc.Write(nativePreface); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(nc, make([]byte, len(nativeMagic)))
	return nc, err
}

const nativeMagic = "VSOCKRPC/1\r\n\r\n\x00\xff"

// nativePreface is magic and an empty HELLO.
var nativePreface = append([]byte(nativeMagic), 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)

// embedded returns a guest whose agent has a configuration, on a wire.
func embedded(t *testing.T, cfg *agent.Config, wire guest.Wire) *guest.Guest {
	t.Helper()
	cfg.Access = access.Rules{Mode: access.ModeEmbedded}
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	g, err := guest.Dial(t.Context(), "limits", &guest.Config{Wire: wire, Dialer: serve(t, a.Serve), Reconnect: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// wantReason checks the code and the word of an error.
func wantReason(t *testing.T, what string, err error, code codes.Code, reason string) {
	t.Helper()
	if e, ok := errors.AsType[*guest.Error](err); !ok || e.Code != code || e.Reason != reason {
		t.Errorf("%s: %v, want %v, %s", what, err, code, reason)
	}
}

// TestFileCalls: an agent holds so many files open and no more; other services, and
// the files that are open, work on.
func TestFileCalls(t *testing.T) {
	for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
		g := embedded(t, &agent.Config{File: &file.Config{MaxCalls: 2}}, wire)
		path := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		var open []*guest.RemoteFile
		for range 2 {
			f, err := g.Files().Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, f)
		}
		_, err := g.Files().Open(t.Context(), path)
		wantReason(t, "a third file", err, codes.ResourceExhausted, "too-many-calls")
		if _, err := g.Info(t.Context()); err != nil {
			t.Error(err)
		}
		if b, err := io.ReadAll(open[0]); err != nil || string(b) != "x" {
			t.Errorf("an open file: %q, %v", b, err)
		}
		for _, f := range open {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
		// The place comes free a moment after the answer.
		wait.For(t, "a call once they were closed", func() bool {
			_, err := g.Files().Stat(t.Context(), path)
			return err == nil
		})
	}
}

// TestMessageLimits: messages and metadata beyond their bounds end the call and no
// other.
func TestMessageLimits(t *testing.T) {
	for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
		g := embedded(t, &agent.Config{}, wire)
		big := &guestv1.StartRequest{Spec: &guestv1.SessionSpec{Args: [][]byte{make([]byte, rpc.DefaultMaxRecvMsgSize)}}}
		_, err := guestv1.NewProcessServiceClient(g.Conn()).Start(t.Context(), big)
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: a message that is too long: %v", wire, err)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-a", strings.Repeat("y", rpc.DefaultMaxHeaderBytes))
		_, err = guestv1.NewAgentServiceClient(g.Conn()).Info(ctx, &guestv1.InfoRequest{})
		if c := status.Code(err); c != codes.ResourceExhausted && c != codes.Internal {
			t.Errorf("%s: metadata that is too long: %v", wire, err)
		}
		if _, err := g.Info(t.Context()); err != nil {
			t.Errorf("%s: afterwards: %v", wire, err)
		}
	}
}

// TestSources: a transfer names so many sources and no more.
func TestSources(t *testing.T) {
	g := embedded(t, &agent.Config{}, guest.WireNative)
	st, err := guestv1.NewFileServiceClient(g.Conn()).Download(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := &guestv1.DownloadOpen{TransferId: make([]byte, 16)}
	for range 1<<16 + 1 {
		open.Sources = append(open.Sources, &guestv1.Source{Path: []byte("/")})
	}
	if err := st.Send(&guestv1.DownloadRequest{Message: &guestv1.DownloadRequest_Open{Open: open}}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
	if _, err := g.Info(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCalls: a connection has so many calls at a time; more wait for others to end,
// and are served then.
func TestCalls(t *testing.T) {
	if os.Getenv("VSOCKRPC_STRESS") == "" {
		t.Skip("more goroutines than the race detector takes: VSOCKRPC_STRESS is not set")
	}
	const most = 4096
	g := embedded(t, &agent.Config{}, guest.WireNative)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watching := make([]grpc.ServerStreamingClient[guestv1.WatchSessionsResponse], most)
	client := guestv1.NewProcessServiceClient(g.Conn())
	for i := range watching {
		st, err := client.WatchSessions(ctx, &guestv1.WatchSessionsRequest{})
		if err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		watching[i] = st
	}
	late, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	if _, err := client.ListSessions(late, &guestv1.ListSessionsRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("one call more: %v", err)
	}
	cancel()
	if _, err := g.Sessions(t.Context()); err != nil {
		t.Errorf("when the others have ended: %v", err)
	}
}

// TestWatchedDirectories: a call watches so many directories and no more, and fewer
// if the kernel says so.
func TestWatchedDirectories(t *testing.T) {
	if os.Getenv("VSOCKRPC_STRESS") == "" {
		t.Skip("makes 100,001 directories: VSOCKRPC_STRESS is not set")
	}
	dir := t.TempDir()
	for i := range 100_001 {
		if err := os.MkdirAll(filepath.Join(dir, strconv.Itoa(i/1000), strconv.Itoa(i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	g := embedded(t, &agent.Config{}, guest.WireNative)
	var last error
	for _, err := range g.Files().Watch(t.Context(), dir, &guest.WatchOptions{Recursive: true}) {
		if last = err; err != nil {
			break
		}
	}
	wantReason(t, "watch", last, codes.ResourceExhausted, "watches-exhausted")
	if _, err := g.Info(t.Context()); err != nil {
		t.Error(err)
	}
}
