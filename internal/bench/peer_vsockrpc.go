package main

import (
	"context"
	"net"

	"github.com/vsockrpc/vsockrpc/internal/bench/benchpb"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// Package rpc with everything switched on, as a nil configuration has it.
var (
	vsockrpcPeer = &peer{
		name:    ours,
		about:   "package rpc, generated gRPC stubs and messages, default configuration",
		serve:   serveVsockrpc(nil),
		connect: connectVsockrpc(nil),
	}
	vsockrpcNoSpin = &peer{
		name:    oursNoSpin,
		about:   "the same without adaptive spin",
		serve:   serveVsockrpc(&rpc.ServerConfig{Spin: -1}),
		connect: connectVsockrpc(&rpc.ClientConfig{Spin: -1}),
	}
	vsockrpcPooled = &peer{
		name:  oursPooled,
		about: "package rpc, default configuration, messages that implement rpc.BytesMessage: recycled buffers, no copies",
		serve: func(l net.Listener) error {
			s := rpc.NewServer(nil)
			s.RegisterService(&pooledServiceDesc, nil)
			return s.Serve(l)
		},
		connect: func(path string) (client, error) {
			return &pooledClient{newVsockrpcClient(path, nil)}, nil
		},
	}
)

func serveVsockrpc(cfg *rpc.ServerConfig) func(net.Listener) error {
	return func(l net.Listener) error {
		s := rpc.NewServer(cfg)
		benchpb.RegisterBenchServer(s, service{})
		return s.Serve(l)
	}
}

func connectVsockrpc(cfg *rpc.ClientConfig) func(string) (client, error) {
	return func(path string) (client, error) {
		return newStubClient(newVsockrpcClient(path, cfg)), nil
	}
}

func newVsockrpcClient(path string, cfg *rpc.ClientConfig) *rpc.Client {
	return rpc.NewClient(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}, cfg)
}
