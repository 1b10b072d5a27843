package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vsockrpc/vsockrpc/internal/bench/benchpb"
)

const (
	grpcWindow = 16 << 20
	grpcBuffer = 64 << 10
)

// grpcPeer is grpc-go as quick as its options make it.
var grpcPeer = &peer{
	name:  "grpc",
	about: "grpc-go: static windows of 16 MiB, buffers of 64 KiB (shared by default), 128 stream workers; service config, retry and health check off",
	serve: func(l net.Listener) error {
		s := grpc.NewServer(
			grpc.StaticStreamWindowSize(grpcWindow),
			grpc.StaticConnWindowSize(grpcWindow),
			grpc.ReadBufferSize(grpcBuffer),
			grpc.WriteBufferSize(grpcBuffer),
			grpc.NumStreamWorkers(128),
		)
		benchpb.RegisterBenchServer(s, service{})
		return s.Serve(l)
	},
	connect: func(path string) (client, error) {
		cc, err := grpc.NewClient("passthrough:///bench",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			}),
			grpc.WithStaticStreamWindowSize(grpcWindow),
			grpc.WithStaticConnWindowSize(grpcWindow),
			grpc.WithReadBufferSize(grpcBuffer),
			grpc.WithWriteBufferSize(grpcBuffer),
			grpc.WithDisableServiceConfig(),
			grpc.WithDisableRetry(),
			grpc.WithDisableHealthCheck(),
		)
		if err != nil {
			return nil, err
		}
		return newStubClient(cc), nil
	},
}
