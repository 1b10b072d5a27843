package rpc

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/vsockrpc/vsockrpc/keys"
)

// TestOptionalTLS: both wires, with TLS and without, on one listener, and the
// interceptor sees which it is.
func TestOptionalTLS(t *testing.T) {
	cfg, err := keys.ServerConfig(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	saw := make(chan bool, 1)
	s := NewServer(&ServerConfig{TLS: cfg, OptionalTLS: true, UnaryInterceptor: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		p, _ := peer.FromContext(ctx)
		_, ok := p.AuthInfo.(AuthInfo)
		saw <- ok
		return h(ctx, req)
	}})
	healthv1.RegisterHealthServer(s, health.NewServer())
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() {
		s.Stop()
		<-served
	}()
	client, err := keys.ClientConfig(nil, func(keys.Public) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]*tls.Config{"plain": nil, "TLS": client} {
		native := NewClient(func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}, &ClientConfig{TLS: tc})
		defer native.Close()
		creds := insecure.NewCredentials()
		if tc != nil {
			creds = credentials.NewTLS(tc)
		}
		stock, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		defer stock.Close()
		for wire, cc := range map[string]grpc.ClientConnInterface{"native": native, "grpc": stock} {
			if _, err := healthv1.NewHealthClient(cc).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
				t.Fatalf("%s, %s: %v", name, wire, err)
			}
			if got := <-saw; got != (tc != nil) {
				t.Errorf("%s, %s: the handler saw TLS %t", name, wire, got)
			}
		}
	}
}
