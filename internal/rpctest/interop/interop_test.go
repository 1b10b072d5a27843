package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/carriers"
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
	"DoEmptyUnaryCall":           interop.DoEmptyUnaryCall,
	"DoLargeUnaryCall":           interop.DoLargeUnaryCall,
	"DoClientStreaming":          interop.DoClientStreaming,
	"DoServerStreaming":          interop.DoServerStreaming,
	"DoPingPong":                 interop.DoPingPong,
	"DoEmptyStream":              interop.DoEmptyStream,
	"DoTimeoutOnSleepingServer":  interop.DoTimeoutOnSleepingServer,
	"DoCancelAfterBegin":         interop.DoCancelAfterBegin,
	"DoCancelAfterFirstResponse": interop.DoCancelAfterFirstResponse,
	"DoCustomMetadata":           interop.DoCustomMetadata,
	"DoStatusCodeAndMessage":     interop.DoStatusCodeAndMessage,
	"DoSpecialStatusMessage":     interop.DoSpecialStatusMessage,
}

// others are the cases that are not in interopCases, and why.
var others = map[string]string{
	"DoUnimplementedService": "run beside them: it has a client of its own",
	"DoUnimplementedMethod":  "run beside them: it takes a *grpc.ClientConn",
	"DoSoakTest":             "run beside them over HTTP/2: it takes a *grpc.ClientConn",

	"DoComputeEngineCreds":              "Google's services",
	"DoServiceAccountCreds":             "Google's services",
	"DoJWTTokenCreds":                   "Google's services",
	"DoOauth2TokenCreds":                "Google's services",
	"DoPerRPCCreds":                     "Google's services",
	"DoGoogleDefaultCredentials":        "Google's services",
	"DoComputeEngineChannelCredentials": "Google's services",
	"DoPickFirstUnary":                  "a fleet of servers that name themselves",
	"DoORCAPerRPCTest":                  "a load balancer in the client",
	"DoORCAOOBTest":                     "a load balancer in the client",
}

// TestEveryCase looks for cases in gRPC's source that nobody has decided on.
func TestEveryCase(t *testing.T) {
	if testing.Short() {
		t.Skip("the source is the same everywhere")
	}
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", "google.golang.org/grpc/interop").Output()
	if err != nil {
		t.Skipf("no source of gRPC here: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Do") {
				continue
			}
			found++
			if interopCases[f.Name.Name] == nil && others[f.Name.Name] == "" {
				t.Errorf("the case %s is not run", f.Name.Name)
			}
		}
	}
	if found < len(interopCases) {
		t.Errorf("%d cases found in %s", found, dir)
	}
}

const interopEnv = "VSOCKRPC_INTEROP_CASE"

// TestInterop runs every case over both wires and all carriers, in a process of
// its own; in the lab (VSOCKRPC_LAB) over native vsock.
func TestInterop(t *testing.T) {
	networks := []string{"tls"}
	for _, c := range carriers.All(t) {
		networks = append(networks, c.Name)
	}
	if os.Getenv(carriers.LabEnv) != "" {
		networks = []string{"vsock"} // the others are quicker outside
	}
	for _, wire := range []string{"native", "http2"} {
		for _, network := range networks {
			t.Run(wire+"/"+network, func(t *testing.T) {
				t.Parallel()
				var out []byte
				var err error
				for range 3 {
					cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInteropChild$", "-test.count=1", "-test.timeout=3m")
					cmd.Env = append(os.Environ(), interopEnv+"="+wire+"/"+network)
					out, err = cmd.CombinedOutput()
					// grpc-go's own client notices that a call was cancelled a moment
					// later, and a quick server may have answered it by then.
					if err == nil || wire != "http2" || !strings.Contains(string(out), "CloseAndRecv() got error code 0, want 1") {
						break
					}
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if want := "\nPASS\n"; !strings.Contains("\n"+string(out), want) {
					t.Errorf("the process has run nothing:\n%s", out)
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
		network = "unix"
	}
	s := rpc.NewServer(&scfg)
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	dial := serve(t, s, network)
	if wire == "native" {
		c := rpc.NewClient(dial, &ccfg)
		defer c.Close()
		runCases(t, c)
		return
	}
	cc, err := grpc.NewClient("passthrough:///guest", grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	runCases(t, cc)
	t.Run("DoUnimplementedMethod", func(t *testing.T) { interop.DoUnimplementedMethod(t.Context(), cc) })
	t.Run("DoSoakTest", func(t *testing.T) {
		interop.DoSoakTest(t.Context(), interop.SoakTestConfig{RequestSize: 271828, ResponseSize: 314159, NumWorkers: 4, Iterations: 40,
			PerIterationMaxAcceptableLatency: time.Minute, OverallTimeout: 2 * time.Minute,
			ChannelForTest: func() (*grpc.ClientConn, func()) { return cc, func() {} }})
	})
}

func runCases(t *testing.T, cc grpc.ClientConnInterface) {
	tc := testgrpc.NewTestServiceClient(cc)
	for name, do := range interopCases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			do(ctx, tc)
		})
	}
	t.Run("DoUnimplementedService", func(t *testing.T) {
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

// serve serves s over a carrier until the test ends and returns how to reach it.
func serve(t *testing.T, s *rpc.Server, network string) carriers.Dial {
	t.Helper()
	for _, c := range carriers.All(t) {
		if c.Name != network {
			continue
		}
		l, dial := c.Listen(t)
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		t.Cleanup(func() {
			s.Stop()
			if err := <-served; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
		return dial
	}
	t.Fatalf("no carrier %s", network)
	return nil
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
