//go:build linux

package agent

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

const ownUID = 1000

// hybridPort is a source port as a guest sees it behind Firecracker.
const hybridPort = 1<<30 + 5

func TestWhoMayCall(t *testing.T) {
	zero := transport.Peer{}
	tests := []struct {
		name    string
		mode    access.Mode
		peer    *transport.Peer
		trusted bool
		rule    string
	}{
		{"host root", access.ModeHostRoot, vsockPeer(2, 900), true, access.RuleHostRoot},
		{"host user", access.ModeHostRoot, vsockPeer(2, 40000), false, access.RuleHostRoot},
		{"hybrid", access.ModeHostRoot, vsockPeer(2, hybridPort), false, access.RuleHostRoot},
		{"hybrid, mode host", access.ModeHost, vsockPeer(2, hybridPort), true, access.RuleHost},
		{"unix, same uid", access.ModeHostRoot, unixPeer(ownUID), true, access.RuleSameUID},
		{"unix, root", access.ModeHostRoot, unixPeer(0), true, access.RuleRoot},
		{"unix, other uid", access.ModeHostRoot, unixPeer(1001), false, access.RuleSameUID},
		{"no AuthInfo", access.ModeHost, nil, false, access.RuleUnknown},
		{"empty AuthInfo", access.ModeHost, &zero, false, access.RuleUnknown},
		{"embedded", access.ModeEmbedded, nil, true, access.RuleEmbedded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, l := serve(t, &Config{Access: access.Rules{Mode: tt.mode, UID: ownUID}}, nil)
			for wire, cc := range clients(t, l, tt.peer) {
				t.Run(wire, func(t *testing.T) { checkCalls(t, a, cc, tt.trusted, tt.rule) })
			}
		})
	}
}

// checkCalls calls one method of each class.
func checkCalls(t *testing.T, a *Agent, cc grpc.ClientConnInterface, trusted bool, rule string) {
	t.Helper()
	// Health answers everybody.
	health := healthv1.NewHealthClient(cc)
	if r, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health check: %v, %v", r, err)
	}
	if r, err := health.List(t.Context(), &healthv1.HealthListRequest{}); err != nil || len(r.GetStatuses()) < 4 {
		t.Errorf("health list: %v, %v", r, err)
	}
	watch, err := health.Watch(t.Context(), &healthv1.HealthCheckRequest{Service: "guest.v1.ProcessService"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health watch: %v, %v", r, err)
	}

	// Info answers everybody, the guest's facts only the trusted.
	info, err := guestv1.NewAgentServiceClient(cc).Info(t.Context(), &guestv1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	checkInfo(t, a, info, trusted, rule)

	// Everything else.
	want := codes.Unauthenticated
	if trusted {
		want = codes.OK
	}
	errs := map[string]error{
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": listServices(t.Context(), cc),
		"/guest.v1.ProcessService/ListSessions":                     cc.Invoke(t.Context(), "/guest.v1.ProcessService/ListSessions", &guestv1.ListSessionsRequest{}, &guestv1.ListSessionsResponse{}),
	}
	for method, err := range errs {
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", method, err, want)
		}
		if trusted {
			continue
		}
		d := detailOf(err)
		if d.GetReason() != "refused" || d.GetRemedy() == "" || d.GetOperation() != method {
			t.Errorf("%s: detail %v", method, d)
		}
		if !strings.Contains(err.Error(), rule) || !strings.Contains(err.Error(), d.GetRemedy()) {
			t.Errorf("%s: text %q has not the rule and the remedy", method, err)
		}
	}
}

func checkInfo(t *testing.T, a *Agent, info *guestv1.InfoResponse, trusted bool, rule string) {
	t.Helper()
	if info.GetVersion() != a.Version() || info.GetProtocolVersion() != ProtocolVersion {
		t.Errorf("versions: %v", info)
	}
	acc := info.GetAccess()
	if acc.GetTrusted() != trusted || acc.GetRule() != rule || (acc.GetRemedy() == "") != trusted {
		t.Errorf("access: %v, want trusted %t by rule %s", acc, trusted, rule)
	}
	if !trusted {
		// Nothing but the three fields above, and of the access what concerns
		// this caller.
		if acc.GetLevel() == "" || acc.GetPolicy() != "" || acc.GetAgentKey() != "" || len(acc.GetRoles()) > 0 || acc.GetError() != "" {
			t.Errorf("access of a caller who is not trusted: %v", acc)
		}
		n := 0
		info.ProtoReflect().Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool { n++; return true })
		if n != 3 {
			t.Errorf("a caller who is not trusted is told more than versions: %v", info)
		}
		return
	}
	if info.GetAgentId() != a.ID() || len(info.GetHostname()) == 0 || info.GetOs().GetKernelName() != "Linux" ||
		info.GetUptimeMillis() == 0 || info.GetWallTimeUnixNanos() == 0 || info.GetLimits().GetMaxSessions() == 0 {
		t.Errorf("info: %v", info)
	}
	var exec bool
	for _, c := range info.GetCapabilities() {
		exec = exec || c.GetName() == "exec" && c.GetEnabled()
	}
	if !exec {
		t.Errorf("no capability exec: %v", info.GetCapabilities())
	}
}

// listServices asks for reflection's list.
func listServices(ctx context.Context, cc grpc.ClientConnInterface) error {
	stream, err := reflectionv1.NewServerReflectionClient(cc).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = stream.Recv()
	stream.CloseSend()
	return err
}

// TestDroppedAtAccept: peers that may not call at all get not even a preface.
func TestDroppedAtAccept(t *testing.T) {
	_, l := serve(t, &Config{Access: access.Rules{Mode: access.ModeHost, AllowCIDs: []uint32{9}}}, nil)
	for _, cid := range []uint32{0, 1, 7, 1<<32 - 1} {
		conn, err := l.dial(t.Context(), vsockPeer(cid, 900))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("CID %d: read %d bytes, %v; want the end of the connection", cid, n, err)
		}
		conn.Close()
	}
	for _, cid := range []uint32{2, 9} {
		cc := client(t, l, vsockPeer(cid, 900))
		if err := listServices(t.Context(), cc); err != nil {
			t.Errorf("CID %d: %v", cid, err)
		}
	}
}

// TestUnknownMethods: nobody has decided on another program's methods, so they
// are for trusted callers, unary and streaming.
func TestUnknownMethods(t *testing.T) {
	desc := &grpc.ServiceDesc{
		ServiceName: "other.v1.Service",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Call", Handler: func(_ any, ctx context.Context, dec func(any) error, icpt grpc.UnaryServerInterceptor) (any, error) {
			req := &guestv1.InfoRequest{}
			if err := dec(req); err != nil {
				return nil, err
			}
			handler := func(context.Context, any) (any, error) { return &guestv1.InfoResponse{Version: "other"}, nil }
			return icpt(ctx, req, &grpc.UnaryServerInfo{FullMethod: "/other.v1.Service/Call"}, handler)
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error {
			return ss.SendMsg(&guestv1.InfoResponse{Version: "other"})
		}}},
	}
	_, l := serve(t, &Config{}, func(a *Agent) { a.RegisterService(desc, struct{}{}) })
	for port, want := range map[uint32]codes.Code{900: codes.OK, 5000: codes.Unauthenticated} {
		for wire, cc := range clients(t, l, vsockPeer(2, port)) {
			err := cc.Invoke(t.Context(), "/other.v1.Service/Call", &guestv1.InfoRequest{}, &guestv1.InfoResponse{})
			if status.Code(err) != want {
				t.Errorf("%s, port %d, unary: %v, want %v", wire, port, err, want)
			}
			stream, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/other.v1.Service/Stream")
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.SendMsg(&guestv1.InfoRequest{}); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			stream.CloseSend()
			if err := stream.RecvMsg(&guestv1.InfoResponse{}); status.Code(err) != want {
				t.Errorf("%s, port %d, stream: %v, want %v", wire, port, err, want)
			}
			r, err := healthv1.NewHealthClient(cc).Check(t.Context(), &healthv1.HealthCheckRequest{Service: "other.v1.Service"})
			if err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				t.Errorf("%s, health of the other service: %v, %v", wire, r, err)
			}
		}
	}
}

// TestEveryRegisteredMethodIsDecided looks at what the agent really serves.
func TestEveryRegisteredMethodIsDecided(t *testing.T) {
	a, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	services := a.GetServiceInfo()
	if len(services) < 5 {
		t.Errorf("services: %v", services)
	}
	for service, info := range services {
		for _, m := range info.Methods {
			if name := "/" + service + "/" + m.Name; !access.Decided(name) {
				t.Errorf("nobody has decided who may call %s", name)
			}
		}
	}
}

func TestUntrustedStreamsAreBounded(t *testing.T) {
	_, l := serve(t, &Config{}, nil)
	health := healthv1.NewHealthClient(client(t, l, vsockPeer(2, 5000)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := func(ctx context.Context, c healthv1.HealthClient) error {
		stream, err := c.Watch(ctx, &healthv1.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	for i := range maxUntrustedStreams {
		c := health
		if i >= rpc.MaxStrangerStreams-2 {
			// One connection has no more.
			c = healthv1.NewHealthClient(client(t, l, vsockPeer(2, uint32(5000+i))))
		}
		if err := watch(ctx, c); err != nil {
			t.Fatalf("watch %d: %v", i, err)
		}
	}
	if err := watch(ctx, health); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v, want ResourceExhausted", err)
	}
	if _, err := health.Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("check beside them: %v", err)
	}
	if err := watch(ctx, healthv1.NewHealthClient(client(t, l, vsockPeer(2, 900)))); err != nil {
		t.Errorf("a trusted caller beside them: %v", err)
	}
	// They come free again.
	cancel()
	wait.For(t, "a call once one has ended", func() bool { return watch(t.Context(), health) == nil })
}

func TestRefusalLog(t *testing.T) {
	var r refusalLog
	start := time.Unix(1_000_000_000, 0)
	steps := []struct {
		at      time.Duration
		ok      bool
		skipped int64
	}{
		{0, true, 0},
		{time.Second, false, 0},
		{refusalInterval - 1, false, 0},
		{refusalInterval, true, 2},
		{refusalInterval + 1, false, 0},
		{5 * refusalInterval, true, 1},
	}
	for _, s := range steps {
		skipped, ok := r.next(start.Add(s.at))
		if ok != s.ok || skipped != s.skipped {
			t.Errorf("after %v: %d, %t; want %d, %t", s.at, skipped, ok, s.skipped, s.ok)
		}
	}
}
