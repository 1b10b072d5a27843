//go:build linux

package agent_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/transport"
)

// A program of the guest that has the agent inside it, on an address of its own. Its main
// begins with process.MaybeRunLauncher, so that commands can run as other users.
func Example() {
	process.MaybeRunLauncher()
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// In a VM: transport.VsockAddr(transport.CIDAny, transport.AgentPort).
	addr := transport.UnixAddr(filepath.Join(dir, "agent.sock"))
	a, err := agent.New(&agent.Config{
		Logger: slog.New(slog.DiscardHandler),
		Access: access.Rules{UID: uint32(os.Geteuid())},
	})
	if err != nil {
		log.Fatal(err)
	}
	// Services of the program are registered here: appv1.RegisterAppServer(a, app).
	l, err := transport.Listen(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()

	// A host calls it: guest.Dial(ctx, "3", nil).
	conn, err := transport.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	conn.Close()

	if err := a.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("served:", <-served)
	// Output: served: <nil>
}
