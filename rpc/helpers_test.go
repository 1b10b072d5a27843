package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

type dialFunc func(context.Context) (net.Conn, error)

// testTLS returns the TLS configurations of a server and of a client that trusts it.
var testTLS = sync.OnceValues(func() (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "guest"}, DNSNames: []string{"guest"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13}
	client = &tls.Config{RootCAs: pool, ServerName: "guest", MinVersion: tls.VersionTLS13}
	return server, client
})

// serverConfigFor returns the configuration for a kind of connection, such as
// "native/tls".
func serverConfigFor(which string) *ServerConfig {
	cfg := &ServerConfig{}
	if strings.HasSuffix(which, "/tls") {
		cfg.TLS, _ = testTLS()
	}
	return cfg
}

// serveFor serves s until the test ends and returns how to reach it.
func serveFor(t testing.TB, s *Server, which string) dialFunc {
	if strings.HasSuffix(which, "/pipe") {
		return servePipe(t, s)
	}
	return serveUnix(t, s)
}

func servePipe(t testing.TB, s *Server) dialFunc {
	t.Cleanup(s.Stop)
	return func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go s.ServeConn(b)
		return a, nil
	}
}

func serveUnix(t testing.TB, s interface {
	Serve(net.Listener) error
	Stop()
}) dialFunc {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(lis) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, ErrServerStopped) {
			t.Errorf("Serve: %v", err)
		}
	})
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// clientFor returns a client for a kind of connection.
func clientFor(t testing.TB, dial dialFunc, which string) grpc.ClientConnInterface {
	t.Helper()
	var ctls *tls.Config
	if strings.HasSuffix(which, "/tls") {
		_, ctls = testTLS()
	}
	if strings.HasPrefix(which, "http2/") {
		creds := insecure.NewCredentials()
		if ctls != nil {
			creds = credentials.NewTLS(ctls)
		}
		return dialHTTP2(t, dial, grpc.WithTransportCredentials(creds))
	}
	c := NewClient(dial, &ClientConfig{TLS: ctls})
	t.Cleanup(func() { c.Close() })
	return c
}

func dialHTTP2(t testing.TB, dial dialFunc, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	cc, err := grpc.NewClient("passthrough:///guest", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// quiet makes cfg log nothing.
func quiet(cfg *ServerConfig) *ServerConfig {
	if cfg == nil {
		cfg = &ServerConfig{}
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	return cfg
}
