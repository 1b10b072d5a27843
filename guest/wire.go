package guest

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"

	"github.com/vsockrpc/vsockrpc/transport"
)

// connect returns a client that makes its connections with d when it needs
// them. It does not dial yet.
func connect(wire Wire, d *dialer) (clientConn, error) {
	switch wire {
	case WireNative, "", WireGRPC:
		// The target only passes grpc's checks: d knows where to go.
		return transport.NewGRPCClient("unix:/agent", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return d.dial(ctx)
		}))
	}
	return nil, fmt.Errorf("wire %q: want %s or %s", wire, WireNative, WireGRPC)
}
