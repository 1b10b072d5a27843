package interop

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/vsockrpc/vsockrpc/rpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"
)

// OpenTelemetry's stats handlers for gRPC go into the configurations of both sides.
func Example_openTelemetry() {
	spans := tracetest.NewSpanRecorder()
	provider := otelgrpc.WithTracerProvider(trace.NewTracerProvider(trace.WithSpanProcessor(spans)))
	s := rpc.NewServer(&rpc.ServerConfig{StatsHandlers: []stats.Handler{otelgrpc.NewServerHandler(provider)}})
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	c := rpc.NewClient(func(context.Context) (net.Conn, error) {
		client, server := net.Pipe()
		go s.ServeConn(server)
		return client, nil
	}, &rpc.ClientConfig{StatsHandlers: []stats.Handler{otelgrpc.NewClientHandler(provider)}})
	defer c.Close()
	if _, err := testgrpc.NewTestServiceClient(c).EmptyCall(context.Background(), &testgrpc.Empty{}); err != nil {
		log.Fatal(err)
	}
	s.GracefulStop()
	fmt.Println(len(spans.Ended()), "spans of", spans.Ended()[0].Name())
	// Output: 2 spans of grpc.testing.TestService/EmptyCall
}
