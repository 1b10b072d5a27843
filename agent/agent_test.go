//go:build linux

package agent

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/access"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// holding is a service whose one method waits for release.
type holding struct {
	entered chan struct{}
	release chan struct{}
}

func (h holding) register(a *Agent) {
	a.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Holding",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Hold", ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			h.entered <- struct{}{}
			select {
			case <-h.release:
				return ss.SendMsg(&guestv1.InfoResponse{})
			case <-ss.Context().Done():
				return ss.Context().Err()
			}
		}}},
	}, struct{}{})
}

// call calls the method and returns its result later.
func (h holding) call(t *testing.T, cc *grpc.ClientConn) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		stream, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Holding/Hold")
		if err == nil {
			err = stream.SendMsg(&guestv1.InfoRequest{})
		}
		if err == nil {
			stream.CloseSend()
			err = stream.RecvMsg(&guestv1.InfoResponse{})
		}
		result <- err
	}()
	<-h.entered
	return result
}

func TestShutdownWaitsForCalls(t *testing.T) {
	h := holding{make(chan struct{}), make(chan struct{})}
	a, l := serve(t, &Config{Access: access.Rules{Mode: access.ModeEmbedded}}, h.register)
	cc := client(t, l, nil)
	watch, err := healthv1.NewHealthClient(cc).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	result := h.call(t, cc)

	ended := make(chan error, 1)
	go func() { ended <- a.Shutdown(t.Context()) }()
	// The watcher's end shows that the shutdown has begun.
	for {
		if _, err := watch.Recv(); err != nil {
			if c := status.Code(err); c != codes.Unavailable {
				t.Errorf("watch ended with %v, want Unavailable", err)
			}
			break
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("shutdown did not wait for the call: %v", err)
	default:
	}
	close(h.release)
	if err := <-result; err != nil {
		t.Errorf("the call that was open: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

func TestShutdownCutsCallsOff(t *testing.T) {
	h := holding{make(chan struct{}), make(chan struct{})}
	a, l := serve(t, &Config{Access: access.Rules{Mode: access.ModeEmbedded}}, h.register)
	result := h.call(t, client(t, l, nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v, want the error of the context", err)
	}
	if err := <-result; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that was open: %v, want Unavailable", err)
	}
	if err := a.Shutdown(t.Context()); err != nil {
		t.Errorf("second shutdown: %v", err)
	}
}

// TestShutdownEndsSessions shows that clients hear how their sessions ended before
// their connections do.
func TestShutdownEndsSessions(t *testing.T) {
	a, l := serve(t, &Config{Access: access.Rules{Mode: access.ModeEmbedded}}, nil)
	sessions := make(map[string]grpc.BidiStreamingClient[guestv1.ExecRequest, guestv1.ExecResponse])
	for wire, cc := range clients(t, l, nil) {
		stream, err := guestv1.NewProcessServiceClient(cc).Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		id := make([]byte, 16)
		copy(id, wire)
		open := &guestv1.Open{SessionId: id, AcknowledgesExit: true, Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("sleep"), []byte("1000")}}}
		if err := stream.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: open}}); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || m.GetOpened() == nil {
			t.Fatalf("%s: %v, %v", wire, m, err)
		}
		sessions[wire] = stream
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.Shutdown(ctx) }()
	for wire, stream := range sessions {
		var exit *guestv1.Exit
		for exit == nil {
			m, err := stream.Recv()
			if err != nil {
				t.Fatalf("%s: %v, want how the session ended", wire, err)
			}
			exit = m.GetExit()
		}
		// Under nohup, HUP is ignored, and TERM follows.
		if exit.Signal != 1 && exit.Signal != 15 || exit.Reason == "" {
			t.Errorf("%s: the session ended with %v, want signal 1 or 15 and a reason", wire, exit)
		}
		if err := stream.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Leave{Leave: &guestv1.Leave{}}}); err != nil {
			t.Error(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: after the exit: %v", wire, err)
		}
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
}

func TestServeSeveralListeners(t *testing.T) {
	a, first := serve(t, &Config{Access: access.Rules{Mode: access.ModeEmbedded}}, nil)
	second := newPeerListener()
	served := make(chan error, 1)
	go func() { served <- a.Serve(second) }()
	for _, l := range []*peerListener{first, second} {
		info, err := guestv1.NewAgentServiceClient(client(t, l, nil)).Info(t.Context(), &guestv1.InfoRequest{})
		if err != nil || info.GetAgentId() != a.ID() {
			t.Errorf("info: %v, %v", info, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("serve after close: %v", err)
	}
	if err := a.Serve(newPeerListener()); err != nil {
		t.Errorf("serve on a closed agent: %v", err)
	}
}

func TestServeFails(t *testing.T) {
	a, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	l := newPeerListener()
	l.Close()
	if err := a.Serve(l); err == nil {
		t.Error("no error from a listener that fails")
	}
}

func TestHealthOfServices(t *testing.T) {
	a, l := serve(t, &Config{}, nil)
	health := healthv1.NewHealthClient(client(t, l, vsockPeer(2, 5000)))
	check := func(service string, want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		r, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil || r.GetStatus() != want {
			t.Errorf("%q: %v, %v; want %v", service, r, err, want)
		}
	}
	check("guest.v1.ProcessService", healthv1.HealthCheckResponse_SERVING)
	a.SetServing("guest.v1.ProcessService", false)
	check("guest.v1.ProcessService", healthv1.HealthCheckResponse_NOT_SERVING)
	check("", healthv1.HealthCheckResponse_SERVING)
	a.SetServing("guest.v1.ProcessService", true)
	check("guest.v1.ProcessService", healthv1.HealthCheckResponse_SERVING)
	if _, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "no.such"}); status.Code(err) != codes.NotFound {
		t.Errorf("a service that is not there: %v", err)
	}
}

func TestCapabilities(t *testing.T) {
	a, l := serve(t, &Config{Version: "v9.9.9", Access: access.Rules{Mode: access.ModeEmbedded}}, nil)
	a.AddCapability(&guestv1.Capability{Name: "exec", Reason: "switched off"})
	a.AddCapability(&guestv1.Capability{Name: "dance", Enabled: true})
	info, err := guestv1.NewAgentServiceClient(client(t, l, nil)).Info(t.Context(), &guestv1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, c := range info.GetCapabilities() {
		if _, twice := got[c.GetName()]; twice {
			t.Errorf("%s is there twice", c.GetName())
		}
		got[c.GetName()] = c.GetReason()
	}
	if got["exec"] != "switched off" {
		t.Errorf("exec is not replaced: %v", info.GetCapabilities())
	}
	if _, ok := got["dance"]; !ok {
		t.Errorf("dance is missing: %v", info.GetCapabilities())
	}
	if info.GetVersion() != "v9.9.9" {
		t.Errorf("version %q", info.GetVersion())
	}
}

func TestAlive(t *testing.T) {
	a, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := a.Alive(ctx); err != nil {
		t.Errorf("alive: %v", err)
	}
}

func TestVersionOf(t *testing.T) {
	setting := func(kv ...string) (s []debug.BuildSetting) {
		for i := 0; i < len(kv); i += 2 {
			s = append(s, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return s
	}
	tests := []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"release", debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "v0.3.0"}}, "v0.3.0"},
		{"inside another program", debug.BuildInfo{
			Main: debug.Module{Path: "example.com/other", Version: "v7.0.0"},
			Deps: []*debug.Module{{Path: modulePath, Version: "v0.2.1"}},
		}, "v0.2.1"},
		{"work tree", debug.BuildInfo{
			Main:     debug.Module{Path: modulePath, Version: "(devel)"},
			Settings: setting("vcs.revision", "0123456789abcdef0123456789abcdef01234567", "vcs.modified", "true"),
		}, "devel-0123456789ab-modified"},
		{"clean work tree", debug.BuildInfo{
			Main:     debug.Module{Path: modulePath},
			Settings: setting("vcs.revision", "0123", "vcs.modified", "false"),
		}, "devel-0123"},
		{"nothing known", debug.BuildInfo{}, "devel"},
	}
	for _, tt := range tests {
		if got := versionOf(&tt.info); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
