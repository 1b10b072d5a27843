//go:build linux

package foreign

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/transport"
)

// serve serves an agent on a Unix socket until the end of the test, and returns
// its address as gRPC has it.
func serve(t *testing.T) string {
	t.Helper()
	a, err := agent.New(&agent.Config{Access: access.Rules{UID: uint32(os.Getuid())}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	addr := transport.UnixAddr(filepath.Join(t.TempDir(), "s"))
	l, err := transport.Listen(t.Context(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	go a.Serve(l)
	return addr.String()
}
