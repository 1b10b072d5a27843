package transport

import (
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// A call is what a server saw of a call.
type call struct {
	authority []string
	peer      *peer.Peer
}

// serveHealth serves the health service on l and returns the calls it gets.
func serveHealth(t testing.TB, l net.Listener) <-chan call {
	t.Helper()
	calls := make(chan call, 100)
	s := grpc.NewServer(grpc.Creds(NewCredentials()), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			p, _ := peer.FromContext(ctx)
			calls <- call{md[":authority"], p}
			return handler(ctx, req)
		}))
	healthpb.RegisterHealthServer(s, health.NewServer())
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return calls
}

func mustClient(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := NewGRPCClient(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func check(ctx context.Context, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
	_, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, opts...)
	return err
}

func TestGRPC(t *testing.T) {
	forEachCarrier(t, func(t *testing.T, c carrier) {
		l := c.listen(t, nil)
		calls := serveHealth(t, l)
		cc := mustClient(t, c.target(l).String())
		var client peer.Peer
		if err := check(waitContext(t), cc, grpc.Peer(&client)); err != nil {
			t.Fatal(err)
		}
		got := <-calls
		if len(got.authority) != 1 || got.authority[0] != "localhost" {
			t.Errorf(":authority = %q", got.authority)
		}
		info, ok := got.peer.AuthInfo.(AuthInfo)
		if !ok || info.Peer.Network != c.name || info.SecurityLevel != credentials.NoSecurity {
			t.Errorf("the server's peer is %+v", got.peer)
		}
		if c.name == "vsock" && (info.Peer.CID != CIDLocal || info.Peer.Port == 0) {
			t.Errorf("the server's peer is %+v", info.Peer)
		}
		info, ok = client.AuthInfo.(AuthInfo)
		if !ok || info.Peer.Network != c.target(l).Net {
			t.Errorf("the client's peer is %+v", client)
		}
	})
}

// TestGRPCOverMux has a gRPC server, which speaks first, behind a VMM that
// answers in the same write as the server's first bytes.
func TestGRPCOverMux(t *testing.T) {
	guest := mustListen(t, UnixAddr(shortPath(t, "g")), nil)
	serveHealth(t, guest)
	a := fakeVMM(t, func(conn *net.UnixConn, _ string) {
		defer conn.Close()
		g, err := net.Dial("unix", guest.addr.Path)
		if err != nil {
			t.Error(err)
			return
		}
		defer g.Close()
		first := make([]byte, 4096)
		n, err := g.Read(first)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := conn.Write(append([]byte("OK 1073741824\n"), first[:n]...)); err != nil {
			t.Error(err)
			return
		}
		go func() {
			io.Copy(g, conn)
			g.Close()
		}()
		io.Copy(conn, g)
	})
	if err := check(waitContext(t), mustClient(t, a.String())); err != nil {
		t.Error(err)
	}
}

// TestGRPCBootingGuest makes a call before there is a server, then restarts
// the server: every attempt has a new socket.
func TestGRPCBootingGuest(t *testing.T) {
	path := shortPath(t, "s")
	cc := mustClient(t, "unix:"+path)
	err := check(waitContext(t), cc)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nobody listens on this path") {
		t.Errorf("call without a server: %v", err)
	}
	for range 2 {
		called := make(chan error, 1)
		go func() { called <- check(waitContext(t), cc, grpc.WaitForReady(true)) }()
		l := mustListen(t, UnixAddr(path), nil)
		s := grpc.NewServer()
		healthpb.RegisterHealthServer(s, health.NewServer())
		served := make(chan struct{})
		go func() {
			defer close(served)
			s.Serve(l)
		}()
		if err := <-called; err != nil {
			t.Error(err)
		}
		s.Stop()
		<-served
		// A call on the old connection would fail, rightly.
		for ctx := waitContext(t); cc.GetState() == connectivity.Ready; {
			if !cc.WaitForStateChange(ctx, connectivity.Ready) {
				t.Fatal("the client did not notice that the server is gone")
			}
		}
	}
}

// TestGRPCOddPaths has paths that mean something else in a URL.
func TestGRPCOddPaths(t *testing.T) {
	dir := shortDir(t)
	for _, name := range []string{"plain", "a b", "a%20b", "a%zzb", "a?b=c", "a#b", "a:1", "ä", "\xff", "a;b&c", `a\b`, "a\nb"} {
		l, err := Listen(t.Context(), UnixAddr(dir+"/"+name), nil)
		if err != nil {
			t.Fatal(err)
		}
		serveHealth(t, l)
		if err := check(waitContext(t), mustClient(t, "unix:"+dir+"/"+name)); err != nil {
			t.Errorf("path %q: %v", name, err)
		}
	}
	t.Chdir(dir)
	if err := check(waitContext(t), mustClient(t, "unix:plain")); err != nil {
		t.Errorf("relative path: %v", err)
	}
}

func TestNewGRPCClientErrors(t *testing.T) {
	tests := []struct{ target, want string }{
		{"vsock://3:1024", "write vsock:3:1024"},
		{"vsock:0:1024", "CID 0 is reserved"},
		{"vsock:-1:1024", "CID any (-1) is for listening only"},
		{"vsock:any", "CID any (-1) is for listening only"},
		{"vsock:3:any", "port any (-1) is for listening only"},
		{"vsock:3:4294967296", "out of range"},
		{"vsock-mux:/x", "no port"},
		{"unix:", "empty path"},
		{"dns:///example.org", "unknown scheme"},
		{"3", "no scheme"},
	}
	for _, tt := range tests {
		cc, err := NewGRPCClient(tt.target)
		if cc != nil {
			t.Errorf("%s: a client with error %v", tt.target, err)
		}
		wantKind(t, err, KindBadAddress)
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %q, want it to say %q", tt.target, err, tt.want)
		}
	}
}

// resolvedAddr resolves a target as grpc-go does, and returns the one address.
func resolvedAddr(t testing.TB, target string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range ResolverBuilders() {
		if b.Scheme() != u.Scheme {
			continue
		}
		var cc recordingClientConn
		r, err := b.Build(resolver.Target{URL: *u}, &cc, resolver.BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r.ResolveNow(resolver.ResolveNowOptions{})
		r.Close()
		if len(cc.state.Endpoints) != 1 || len(cc.state.Endpoints[0].Addresses) != 1 {
			t.Fatalf("%q resolves to %+v", target, cc.state)
		}
		return cc.state.Endpoints[0].Addresses[0].Addr
	}
	t.Fatalf("no resolver for %q", target)
	return ""
}

type recordingClientConn struct {
	resolver.ClientConn
	state resolver.State
}

func (c *recordingClientConn) UpdateState(s resolver.State) error {
	c.state = s
	return nil
}

func TestResolver(t *testing.T) {
	for target, want := range map[string]string{
		"vsock:3:1024":             "vsock:3:1024",
		"vsock:3":                  "vsock:3:1000",
		"vsock:host:7":             "vsock:2:7",
		"vsock-mux:/run/a:b:1":     "vsock-mux:/run/a:b:1",
		"vsock-mux:///run/a.s:1":   "vsock-mux:/run/a.s:1",
		"unix:/run/a.sock":         "unix:/run/a.sock",
		"unix:///run/a.sock":       "unix:/run/a.sock",
		"unix:relative/a.sock":     "unix:relative/a.sock",
		"unix:/run/a%20b%3Fc%25.s": "unix:/run/a b?c%.s",
	} {
		if got := resolvedAddr(t, target); got != want {
			t.Errorf("%q resolves to %q, want %q", target, got, want)
		}
	}
	for _, target := range []string{"vsock://3:1024", "vsock:0:1", "vsock:any", "unix:/a?b", "unix:/a#b", "unix://host/a", "vsock-mux:/a"} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		_, err = resolverBuilder(u.Scheme).Build(resolver.Target{URL: *u}, &recordingClientConn{}, resolver.BuildOptions{})
		wantKind(t, err, KindBadAddress)
	}
}

// TestGRPCPieces puts a client together from the exported pieces.
func TestGRPCPieces(t *testing.T) {
	l := carriers[0].listen(t, nil)
	serveHealth(t, l)
	dialer := grpc.WithContextDialer(ContextDialer(&DialConfig{Timeout: longWait}))
	for name, opts := range map[string][]grpc.DialOption{
		"own resolver":     {grpc.WithResolvers(ResolverBuilders()...), dialer, grpc.WithTransportCredentials(NewCredentials())},
		"grpc-go's own":    {dialer, grpc.WithTransportCredentials(NewCredentials())},
		"with insecure":    {dialer, grpc.WithTransportCredentials(insecure.NewCredentials())},
		"without a dialer": {grpc.WithTransportCredentials(NewCredentials())},
	} {
		t.Run(name, func(t *testing.T) {
			cc, err := grpc.NewClient(l.addr.String(), opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer cc.Close()
			if err := check(waitContext(t), cc); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("passthrough", func(t *testing.T) {
		cc, err := grpc.NewClient("passthrough:///"+l.addr.String(), dialer, grpc.WithTransportCredentials(NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		if err := check(waitContext(t), cc); err != nil {
			t.Error(err)
		}
	})
}

// TestGRPCProxyIsIgnored shows that a proxy in the environment is not asked.
func TestGRPCProxyIsIgnored(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	l := carriers[0].listen(t, nil)
	serveHealth(t, l)
	if err := check(waitContext(t), mustClient(t, l.addr.String())); err != nil {
		t.Error(err)
	}
}

// A secret is a per-RPC credential that must not be sent in the clear.
type secret struct{}

func (secret) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer secret"}, nil
}
func (secret) RequireTransportSecurity() bool { return true }

func TestCredentialsClaimNoSecurity(t *testing.T) {
	l := carriers[0].listen(t, nil)
	serveHealth(t, l)
	if _, err := NewGRPCClient(l.addr.String(), grpc.WithPerRPCCredentials(secret{})); err == nil {
		t.Error("a secret for every call was accepted")
	}
	err := check(waitContext(t), mustClient(t, l.addr.String()), grpc.PerRPCCredentials(secret{}))
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("a call with a secret: %v", err)
	}
	creds := NewCredentials()
	_, info, err := creds.Clone().ServerHandshake(&net.TCPConn{})
	if ai, ok := info.(AuthInfo); err != nil || !ok || ai.Peer != (Peer{}) || ai.SecurityLevel != credentials.NoSecurity {
		t.Errorf("of a foreign connection: %+v, %v", info, err)
	}
	if info.AuthType() != "peer" {
		t.Errorf("AuthType = %q", info.AuthType())
	}
}
