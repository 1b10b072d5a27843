package guest

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
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

// windowsOfConn is how many streams may stall before a connection does.
const windowsOfConn = 64

// connect returns a client that makes its connections with dial when it needs them.
// It does not dial yet.
func connect(cfg *Config, log *slog.Logger, tc *tls.Config, dial func(context.Context) (net.Conn, error)) (clientConn, error) {
	switch cfg.Wire {
	case WireNative, "":
		return rpc.NewClient(dial, &rpc.ClientConfig{
			StreamWindow:   cfg.MaxBuffered / windowsOfConn,
			ConnWindow:     cfg.MaxBuffered,
			StatsHandlers:  cfg.StatsHandlers,
			TLS:            tc,
			Backoff:        backoff.Config{BaseDelay: firstRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry},
			ConnectTimeout: tryTimeout,
			Logger:         log,
		}), nil
	case WireGRPC:
		creds := transport.NewCredentials()
		if tc != nil {
			creds = credentials.NewTLS(tc)
		}
		// The target only passes grpc's checks: dial knows where to go.
		opts := []grpc.DialOption{
			grpc.WithTransportCredentials(creds),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rpc.Codec())),
		}
		for _, h := range cfg.StatsHandlers {
			opts = append(opts, grpc.WithStatsHandler(h))
		}
		return transport.NewGRPCClient("unix:/agent", opts...)
	}
	return nil, fmt.Errorf("wire %q: want %s or %s", cfg.Wire, WireNative, WireGRPC)
}
