package rpc_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc"
)

// health is a service of one's own: what implements the interface that
// protoc-gen-go-grpc has generated for a service.
type health struct {
	healthpb.UnimplementedHealthServer
	failures int // answers that fail first
}

func (h *health) Check(_ context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if h.failures > 0 {
		h.failures--
		return nil, status.Error(codes.Unavailable, "not yet")
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (h *health) Watch(_ *healthpb.HealthCheckRequest, st grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	return st.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING})
}

// serve serves h on a Unix socket, and returns how to dial it and how to stop. A guest
// listens with transport.Listen instead.
func serve(h *health, cfg *rpc.ServerConfig) (dial func(context.Context) (net.Conn, error), stop func()) {
	dir, err := os.MkdirTemp("", "rpc")
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	lis, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	s := rpc.NewServer(cfg)
	healthpb.RegisterHealthServer(s, h)
	go func() {
		if err := s.Serve(lis); err != nil {
			log.Print(err)
		}
	}()
	dial = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return dial, func() { s.Stop(); os.RemoveAll(dir) }
}

// A service is registered as on a grpc.Server, and called as over a grpc.ClientConn.
func Example() {
	lis, err := net.Listen("tcp", "127.0.0.1:0") // or transport.Listen
	if err != nil {
		log.Fatal(err)
	}
	s := rpc.NewServer(nil)
	healthpb.RegisterHealthServer(s, &health{})
	go s.Serve(lis)
	defer s.Stop()

	c := rpc.NewClient(func(ctx context.Context) (net.Conn, error) { // or transport.Dialer("vsock:3:1000", nil)
		var d net.Dialer
		return d.DialContext(ctx, "tcp", lis.Addr().String())
	}, nil)
	defer c.Close()
	out, err := healthpb.NewHealthClient(c).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(out.GetStatus(), err)
	// Output: SERVING <nil>
}

// A client connects when it is first used, and again when the connection was lost.
func ExampleNewClient() {
	dial, stop := serve(&health{}, nil)
	defer stop()
	c := rpc.NewClient(dial, &rpc.ClientConfig{UserAgent: "example/1", Hello: rpc.HelloInfo{Software: "example/1"}})
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// WaitForReady: go on trying to connect, until the deadline.
	st, err := healthpb.NewHealthClient(c).Watch(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		log.Fatal(err)
	}
	out, err := st.Recv()
	fmt.Println(out.GetStatus(), err)
	// Output: SERVING <nil>
}

// One listener serves both wires: the native one, and stock gRPC over HTTP/2 for
// clients in any language.
func ExampleServer() {
	dial, stop := serve(&health{}, &rpc.ServerConfig{MaxConcurrentStreams: 1000})
	defer stop()
	native := rpc.NewClient(dial, nil)
	defer native.Close()
	stock, err := grpc.NewClient("passthrough:///guest",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		log.Fatal(err)
	}
	defer stock.Close()
	for _, cc := range []grpc.ClientConnInterface{native, stock} {
		out, err := healthpb.NewHealthClient(cc).Check(context.Background(), &healthpb.HealthCheckRequest{})
		fmt.Println(out.GetStatus(), err)
	}
	// Output:
	// SERVING <nil>
	// SERVING <nil>
}

// Interceptors are those of gRPC; the first of a list is outermost.
func ExampleServerConfig_interceptors() {
	logged := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		reply, err := h(ctx, req)
		fmt.Println(info.FullMethod, status.Code(err))
		return reply, err
	}
	readOnly := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if info.FullMethod != healthpb.Health_Check_FullMethodName {
			return nil, status.Error(codes.PermissionDenied, "only health may be asked for")
		}
		return h(ctx, req)
	}
	dial, stop := serve(&health{}, &rpc.ServerConfig{UnaryInterceptors: []grpc.UnaryServerInterceptor{logged, readOnly}})
	defer stop()
	c := rpc.NewClient(dial, nil)
	defer c.Close()
	_, _ = healthpb.NewHealthClient(c).Check(context.Background(), &healthpb.HealthCheckRequest{})
	_, _ = healthpb.NewHealthClient(c).List(context.Background(), &healthpb.HealthListRequest{})
	// Output:
	// /grpc.health.v1.Health/Check OK
	// /grpc.health.v1.Health/List PermissionDenied
}

// There is no service config: an interceptor makes calls again that it knows to be
// harmless, here of one method.
func ExampleClientConfig_retries() {
	again := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		wait := 10 * time.Millisecond
		for {
			err := invoke(ctx, method, req, reply, cc, opts...)
			if method != healthpb.Health_Check_FullMethodName || status.Code(err) != codes.Unavailable || wait > time.Second {
				return err
			}
			fmt.Println("again:", status.Convert(err).Message())
			select {
			case <-time.After(wait):
				wait *= 2
			case <-ctx.Done():
				return err
			}
		}
	}
	dial, stop := serve(&health{failures: 2}, nil)
	defer stop()
	c := rpc.NewClient(dial, &rpc.ClientConfig{UnaryInterceptor: again})
	defer c.Close()
	out, err := healthpb.NewHealthClient(c).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(out.GetStatus(), err)
	// Output:
	// again: not yet
	// again: not yet
	// SERVING <nil>
}

// ended is a stats handler that prints how calls end. That of OpenTelemetry
// (otelgrpc.NewServerHandler, NewClientHandler) goes into the same place.
type ended struct{}

func (ended) TagRPC(ctx context.Context, i *stats.RPCTagInfo) context.Context {
	fmt.Println("begins:", i.FullMethodName)
	return ctx
}

func (ended) HandleRPC(_ context.Context, s stats.RPCStats) {
	if e, ok := s.(*stats.End); ok {
		fmt.Println("ended:", status.Code(e.Error))
	}
}

func (ended) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (ended) HandleConn(context.Context, stats.ConnStats)                       {}

// Stats handlers see calls and connections on both sides, as those of gRPC do.
func ExampleClientConfig_statsHandlers() {
	dial, stop := serve(&health{}, nil)
	defer stop()
	c := rpc.NewClient(dial, &rpc.ClientConfig{StatsHandlers: []stats.Handler{ended{}}})
	defer c.Close()
	_, err := healthpb.NewHealthClient(c).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(err)
	// Output:
	// begins: /grpc.health.v1.Health/Check
	// ended: OK
	// <nil>
}
