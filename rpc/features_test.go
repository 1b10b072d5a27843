package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestInterceptors(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	note := func(s string) {
		mu.Lock()
		seen = append(seen, s)
		mu.Unlock()
	}
	cfg := &ServerConfig{
		UnaryInterceptor: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			note("unary " + info.FullMethod)
			return h(ctx, req)
		},
		StreamInterceptor: func(srv any, st grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			note(fmt.Sprintf("stream %s %v %v", info.FullMethod, info.IsClientStream, info.IsServerStream))
			return h(srv, st)
		},
	}
	onBoth(t, nil, cfg, func(t *testing.T, cc grpc.ClientConnInterface) {
		mu.Lock()
		seen = nil
		mu.Unlock()
		if _, err := call(t, cc, "x"); err != nil {
			t.Fatal(err)
		}
		st, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Down")
		if err != nil {
			t.Fatal(err)
		}
		if err := st.SendMsg(downRequest(1, 1)); err != nil {
			t.Fatal(err)
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = st.RecvMsg(new(wrapperspb.BytesValue))
		}
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]string{"unary /test.Echo/Echo", "stream /test.Echo/Down false true"}, seen); diff != "" {
			t.Error(diff)
		}
	})
}

func TestClientInterceptorsAndDefaults(t *testing.T) {
	s := NewServer(nil)
	s.RegisterService(&echoDesc, nil)
	var seen []string
	c := NewClient(serveUnix(t, s), &ClientConfig{
		UnaryInterceptor: func(ctx context.Context, m string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			seen = append(seen, m)
			return next(ctx, m, req, reply, cc, opts...)
		},
		StreamInterceptor: func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, m string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			seen = append(seen, m)
			return next(ctx, d, cc, m, opts...)
		},
		DefaultCallOptions: []grpc.CallOption{grpc.MaxCallSendMsgSize(10)},
	})
	defer c.Close()
	if _, err := call(t, c, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, c, strings.Repeat("x", 20)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want ResourceExhausted", err)
	}
	if _, err := call(t, c, strings.Repeat("x", 20), grpc.MaxCallSendMsgSize(100)); err != nil {
		t.Errorf("an option of the call must come after the defaults: %v", err)
	}
	if _, err := c.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Down"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/test.Echo/Echo", "/test.Echo/Echo", "/test.Echo/Echo", "/test.Echo/Down"}, seen); diff != "" {
		t.Error(diff)
	}
}

// TestCompressorIsIgnored: a stub that asks for a compressor works, and what it sends
// is not compressed.
func TestCompressorIsIgnored(t *testing.T) {
	s := NewServer(nil)
	s.RegisterService(&echoDesc, nil)
	cc := clientFor(t, serveUnix(t, s), "native/unix")
	for _, name := range []string{"gzip", "nobody-knows", encoding.Identity} {
		if out, err := call(t, cc, "x", grpc.UseCompressor(name)); err != nil || out != "x" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		st, err := cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both", grpc.UseCompressor(name))
		if err == nil {
			err = st.SendMsg(value("x"))
		}
		if err != nil {
			t.Errorf("%s: a stream: %v", name, err)
		}
	}
}

// shout is a codec of the application's own.
type shout struct{}

func (shout) Name() string { return "shout" }

func (shout) Marshal(v any) ([]byte, error) {
	return []byte(strings.ToUpper(string(v.(*wrapperspb.BytesValue).Value))), nil
}

func (shout) Unmarshal(b []byte, v any) error {
	v.(*wrapperspb.BytesValue).Value = b
	return nil
}

func init() { encoding.RegisterCodec(shout{}) }

func TestCodecs(t *testing.T) {
	for _, which := range []string{"native/unix", "native/pipe"} {
		s := NewServer(nil)
		s.RegisterService(&echoDesc, nil)
		cc := clientFor(t, serveFor(t, s, which), which)
		for name, opt := range map[string]grpc.CallOption{
			"subtype": grpc.CallContentSubtype("Shout"),
			"force":   grpc.ForceCodec(shout{}),
		} {
			if out, err := call(t, cc, "loud", opt); err != nil || out != "LOUD" {
				t.Errorf("%s: got %q, %v", name, out, err)
			}
		}
		if out, err := call(t, cc, "quiet", grpc.ForceCodecV2(Codec())); err != nil || out != "quiet" {
			t.Errorf("Codec: got %q, %v", out, err)
		}
		if _, err := call(t, cc, "x", grpc.CallContentSubtype("nobody-knows")); status.Code(err) != codes.Internal {
			t.Errorf("unknown subtype: got %v, want Internal", err)
		}
	}
}

// token is a credential.
type token struct{ secure bool }

func (tk token) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	ri, _ := credentials.RequestInfoFromContext(ctx)
	return map[string]string{"token": uri[0] + " " + ri.Method}, nil
}

func (tk token) RequireTransportSecurity() bool { return tk.secure }

func TestPerRPCCredentials(t *testing.T) {
	e := &echo{unary: func(ctx context.Context, _ *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		return value(strings.Join(md["token"], ",")), nil
	}}
	for which, secure := range map[string]bool{"native/unix": false, "native/tls": true} {
		s := NewServer(serverConfigFor(which))
		s.RegisterService(&echoDesc, e)
		cc := clientFor(t, serveFor(t, s, which), which)
		host := "localhost"
		if secure {
			host = "guest"
		}
		out, err := call(t, cc, "", grpc.PerRPCCredentials(token{secure}))
		if want := "https://" + host + "/test.Echo /test.Echo/Echo"; err != nil || out != want {
			t.Errorf("%s: got %q, %v, want %q", which, out, err, want)
		}
		_, err = call(t, cc, "", grpc.PerRPCCredentials(token{true}))
		if want := map[bool]codes.Code{true: codes.OK, false: codes.Unauthenticated}[secure]; status.Code(err) != want {
			t.Errorf("%s: secure credentials: %v, want %v", which, err, want)
		}
	}
}

// cardInfo is what a connection of the test says about its peer.
type cardInfo struct{ credentials.CommonAuthInfo }

func (cardInfo) AuthType() string { return "card" }

type cardConn struct{ net.Conn }

func (cardConn) AuthInfo() credentials.AuthInfo { return cardInfo{} }

type cardListener struct{ net.Listener }

func (l cardListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return cardConn{c}, nil
}

func TestAuthInfo(t *testing.T) {
	e := &echo{unary: func(ctx context.Context, _ *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		p, ok := peer.FromContext(ctx)
		if !ok {
			return nil, errors.New("no peer")
		}
		switch a := p.AuthInfo.(type) {
		case AuthInfo:
			_, card := a.Transport.(cardInfo)
			return value(fmt.Sprint("tls ", a.State.HandshakeComplete, card)), nil
		case cardInfo:
			return value("card"), nil
		}
		return nil, fmt.Errorf("AuthInfo is %T", p.AuthInfo)
	}}
	for _, which := range []string{"native/unix", "native/tls", "http2/unix", "http2/tls"} {
		t.Run(which, func(t *testing.T) {
			s := NewServer(serverConfigFor(which))
			s.RegisterService(&echoDesc, e)
			dial := serveUnix(t, carded{s})
			cc := clientFor(t, dial, which)
			want := "card"
			if strings.HasSuffix(which, "tls") {
				want = "tls true true"
			}
			var p peer.Peer
			if out, err := call(t, cc, "", grpc.Peer(&p)); err != nil || out != want {
				t.Errorf("got %q, %v, want %q", out, err, want)
			}
			if p.Addr == nil || p.Addr.Network() != "unix" {
				t.Errorf("the client's peer is %v", p)
			}
		})
	}
}

type carded struct{ *Server }

func (c carded) Serve(l net.Listener) error { return c.Server.Serve(cardListener{l}) }

func TestPanics(t *testing.T) {
	e := &echo{
		unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
			if string(in.Value) == "boom" {
				panic("boom")
			}
			return in, nil
		},
		both: func(grpc.ServerStream) error { panic("boom") },
	}
	onBoth(t, e, quiet(nil), func(t *testing.T, cc grpc.ClientConnInterface) {
		for range 20 { // enough to run where the connection is read
			if _, err := call(t, cc, "fine"); err != nil {
				t.Fatal(err)
			}
			if _, err := call(t, cc, "boom"); status.Code(err) != codes.Internal {
				t.Fatalf("got %v, want Internal", err)
			}
		}
		st, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Both")
		if err != nil {
			t.Fatal(err)
		}
		if err := st.RecvMsg(new(wrapperspb.BytesValue)); status.Code(err) != codes.Internal {
			t.Errorf("stream: got %v, want Internal", err)
		}
	})
}

func TestHealthAndReflection(t *testing.T) {
	for _, which := range []string{"native/unix", "http2/unix"} {
		s := NewServer(nil)
		healthpb.RegisterHealthServer(s, health.NewServer())
		reflection.Register(s)
		cc := clientFor(t, serveUnix(t, s), which)
		r, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%s: health %v, %v", which, r, err)
		}
		st, err := reflectpb.NewServerReflectionClient(cc).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Fatal(err)
		}
		l, err := st.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range l.GetListServicesResponse().GetService() {
			names = append(names, s.Name)
		}
		want := []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Error(which, diff)
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: end: %v", which, err)
		}
	}
}

func TestOnFinish(t *testing.T) {
	s := NewServer(nil)
	s.RegisterService(&echoDesc, nil)
	cc := clientFor(t, serveUnix(t, s), "native/unix")
	n := 0
	got := errors.New("not called")
	opt := grpc.OnFinish(func(err error) { n++; got = err })
	if _, err := call(t, cc, "x", opt); err != nil || n != 1 || got != nil {
		t.Errorf("unary: called %d times with %v", n, got)
	}
	st, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Nope", opt)
	if err != nil {
		t.Fatal(err)
	}
	err = st.RecvMsg(new(wrapperspb.BytesValue))
	if n != 2 || status.Code(got) != codes.Unimplemented || status.Code(err) != codes.Unimplemented {
		t.Errorf("stream: called %d times with %v, RecvMsg %v", n, got, err)
	}
}
