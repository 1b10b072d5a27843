package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// interopCases are the client test cases of gRPC's interoperability suite that
// need no Google services. Each ends the process if it fails.
var interopCases = map[string]func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
	"EmptyUnary":               interop.DoEmptyUnaryCall,
	"LargeUnary":               interop.DoLargeUnaryCall,
	"ClientStreaming":          interop.DoClientStreaming,
	"ServerStreaming":          interop.DoServerStreaming,
	"PingPong":                 interop.DoPingPong,
	"EmptyStream":              interop.DoEmptyStream,
	"TimeoutOnSleepingServer":  interop.DoTimeoutOnSleepingServer,
	"CancelAfterBegin":         interop.DoCancelAfterBegin,
	"CancelAfterFirstResponse": interop.DoCancelAfterFirstResponse,
	"CustomMetadata":           interop.DoCustomMetadata,
	"StatusCodeAndMessage":     interop.DoStatusCodeAndMessage,
	"SpecialStatusMessage":     interop.DoSpecialStatusMessage,
}

const interopEnv = "VSOCKRPC_INTEROP_CASE"

// TestInterop runs every case over both wires and several kinds of connection, in
// a process of its own.
func TestInterop(t *testing.T) {
	for _, wire := range []string{"native", "http2"} {
		for _, network := range []string{"unix", "pipe", "tls"} {
			t.Run(wire+"/"+network, func(t *testing.T) {
				t.Parallel()
				cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInteropChild$", "-test.count=1", "-test.timeout=60s")
				cmd.Env = append(os.Environ(), interopEnv+"="+wire+"/"+network)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			})
		}
	}
}

// TestInteropChild runs all cases for one kind of connection. The first that fails
// ends the process and names itself in the log.
func TestInteropChild(t *testing.T) {
	which := os.Getenv(interopEnv)
	if which == "" {
		t.Skip("run by TestInterop")
	}
	wire, network, _ := strings.Cut(which, "/")
	var scfg rpc.ServerConfig
	ccfg := rpc.ClientConfig{}
	creds := insecure.NewCredentials()
	if network == "tls" {
		scfg.TLS, ccfg.TLS = testTLS(t)
		creds = credentials.NewTLS(ccfg.TLS)
	}
	s := rpc.NewServer(&scfg)
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	dial := serve(t, s, network)
	var cc grpc.ClientConnInterface
	if wire == "native" {
		c := rpc.NewClient(dial, &ccfg)
		defer c.Close()
		cc = c
	} else {
		c, err := grpc.NewClient("passthrough:///guest", grpc.WithTransportCredentials(creds),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cc = c
	}
	tc := testgrpc.NewTestServiceClient(cc)
	for name, do := range interopCases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			do(ctx, tc)
		})
	}
	t.Run("UnimplementedService", func(t *testing.T) {
		interop.DoUnimplementedService(t.Context(), testgrpc.NewUnimplementedServiceClient(cc))
	})
	t.Run("UnimplementedMethod", func(t *testing.T) {
		var req, reply testgrpc.Empty
		err := cc.Invoke(t.Context(), "/grpc.testing.TestService/UnimplementedCall", &req, &reply)
		if status.Code(err) != codes.Unimplemented {
			t.Fatalf("got %v, want Unimplemented", err)
		}
	})
}

// serve serves s until the test ends and returns how to reach it.
func serve(t *testing.T, s *rpc.Server, network string) func(context.Context) (net.Conn, error) {
	t.Helper()
	t.Cleanup(s.Stop)
	if network == "pipe" {
		return func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			go s.ServeConn(b)
			return a, nil
		}
	}
	path := filepath.Join(t.TempDir(), "s")
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(lis)
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

// testTLS returns the TLS configurations of a server and of a client that trusts it.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "guest"}, DNSNames: []string{"guest"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13},
		&tls.Config{RootCAs: pool, ServerName: "guest", MinVersion: tls.VersionTLS13}
}
