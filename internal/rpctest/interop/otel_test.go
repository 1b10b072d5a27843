package interop

import (
	"context"
	"net"
	"testing"

	"github.com/vsockrpc/vsockrpc/rpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"
)

// TestOpenTelemetry gives otelgrpc's handlers to both sides, unchanged: over either
// wire the span of the client and that of the server are one trace, with the names
// that otelgrpc gives them.
func TestOpenTelemetry(t *testing.T) {
	for _, wire := range []string{"native", "http2"} {
		t.Run(wire, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			opts := []otelgrpc.Option{
				otelgrpc.WithTracerProvider(trace.NewTracerProvider(trace.WithSpanProcessor(spans))),
				otelgrpc.WithPropagators(propagation.TraceContext{}),
			}
			s := rpc.NewServer(&rpc.ServerConfig{StatsHandlers: []stats.Handler{otelgrpc.NewServerHandler(opts...)}})
			testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
			dial := serve(t, s, "unix")
			var cc grpc.ClientConnInterface
			if wire == "native" {
				c := rpc.NewClient(dial, &rpc.ClientConfig{StatsHandlers: []stats.Handler{otelgrpc.NewClientHandler(opts...)}})
				defer c.Close()
				cc = c
			} else {
				c, err := grpc.NewClient("passthrough:///guest", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithStatsHandler(otelgrpc.NewClientHandler(opts...)),
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				cc = c
			}
			tc := testgrpc.NewTestServiceClient(cc)
			interop.DoEmptyUnaryCall(t.Context(), tc)
			interop.DoPingPong(t.Context(), tc)
			s.GracefulStop() // the server's spans have ended
			type kinds struct{ client, server trace.ReadOnlySpan }
			traces := map[string]*kinds{}
			for _, span := range spans.Ended() {
				k := traces[span.Name()]
				if k == nil {
					k = &kinds{}
					traces[span.Name()] = k
				}
				switch span.SpanKind() {
				case oteltrace.SpanKindClient:
					k.client = span
				case oteltrace.SpanKindServer:
					k.server = span
				}
			}
			for _, name := range []string{"grpc.testing.TestService/EmptyCall", "grpc.testing.TestService/FullDuplexCall"} {
				k := traces[name]
				switch {
				case k == nil || k.client == nil || k.server == nil:
					t.Errorf("%s: spans %v", name, k)
				case k.server.Parent().SpanID() != k.client.SpanContext().SpanID() || k.server.SpanContext().TraceID() != k.client.SpanContext().TraceID():
					t.Errorf("%s: the server's span is below %v, want %v", name, k.server.Parent(), k.client.SpanContext())
				case !k.server.Parent().IsRemote():
					t.Errorf("%s: the server's parent is not remote", name)
				}
			}
		})
	}
}
