package guest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// tryTimeout bounds one attempt to connect, so that the next one finds a guest
// that has booted meanwhile.
const tryTimeout = 5 * time.Second

// connect returns a client that makes its connections with d when it needs
// them. It does not dial yet.
func connect(wire Wire, d *dialer, tc *tls.Config) (clientConn, error) {
	switch wire {
	case WireNative, "":
		return rpc.NewClient(d.dial, &rpc.ClientConfig{
			TLS:            tc,
			Backoff:        backoff.Config{BaseDelay: firstRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry},
			ConnectTimeout: tryTimeout,
			Logger:         d.log,
		}), nil
	case WireGRPC:
		creds := transport.NewCredentials()
		if tc != nil {
			creds = credentials.NewTLS(tc)
		}
		// The target only passes grpc's checks: d knows where to go.
		return transport.NewGRPCClient("unix:/agent",
			grpc.WithTransportCredentials(creds),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d.dial(ctx) }),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rpc.Codec())))
	}
	return nil, fmt.Errorf("wire %q: want %s or %s", wire, WireNative, WireGRPC)
}
