//go:build linux

package agent

import (
	"io"
	"log/slog"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/access"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// TestBehindVMM calls an agent as a host does that has a VMM with a Unix socket
// in between: no port ever shows who calls, so the rule has to be ModeHost.
func TestBehindVMM(t *testing.T) {
	for mode, want := range map[access.Mode]codes.Code{access.ModeHost: codes.OK, access.ModeHostRoot: codes.Unauthenticated} {
		t.Run(string(mode), func(t *testing.T) {
			vmm := vmmtest.New(t)
			l, err := vmm.Listen(transport.AgentPort)
			if err != nil {
				t.Fatal(err)
			}
			a, err := New(&Config{Access: access.Rules{Mode: mode}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- a.Serve(l) }()
			cc, err := transport.NewGRPCClient(vmm.Addr(transport.AgentPort))
			if err != nil {
				t.Fatal(err)
			}
			info, err := guestv1.NewAgentServiceClient(cc).Info(t.Context(), &guestv1.InfoRequest{})
			if err != nil {
				t.Fatal(err)
			}
			checkInfo(t, a, info, want == codes.OK, string(mode))
			_, err = guestv1.NewProcessServiceClient(cc).ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
			if status.Code(err) != want {
				t.Errorf("list sessions: %v, want %v", err, want)
			}
			cc.Close()
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
}
