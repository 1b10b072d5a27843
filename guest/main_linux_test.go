package guest_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/guest"
)

func TestMain(m *testing.M) {
	process.MaybeRunLauncher()
	if os.Getenv(asGenerator) != "" {
		os.Exit(runGenerator())
	}
	if os.Getenv(asAgent) != "" {
		os.Exit(serveAsAgent())
	}
	os.Exit(m.Run())
}

// startAgent runs an agent in this process, on a Unix socket, until the test
// ends, and returns its address.
func startAgent(tb testing.TB) string {
	tb.Helper()
	addr, stop, err := runAgent(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(stop)
	return addr
}

func runAgent(dir string) (addr string, stop func(), err error) {
	a, err := agent.New(&agent.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Access: access.Rules{Mode: access.ModeEmbedded}})
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", nil, err
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	return "unix:" + path, func() {
		a.Close()
		<-served
	}, nil
}

func dialAgent(tb testing.TB, addr string) *guest.Guest {
	tb.Helper()
	g, err := guest.Dial(context.Background(), addr, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { g.Close() })
	return g
}
