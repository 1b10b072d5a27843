package rpc

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// Client makes gRPC calls over one connection, which it opens when it is first
// needed and again when it was lost. All methods may be called concurrently.
type Client struct {
	cc *grpc.ClientConn
}

var _ grpc.ClientConnInterface = (*Client)(nil)

// NewClient returns a client that uses dial to connect. It does not connect yet.
// dial must honour its context; the client closes what it returns.
func NewClient(dial func(context.Context) (net.Conn, error), cfg *ClientConfig) *Client {
	cc, err := grpc.NewClient("passthrough:///rpc", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(Codec())))
	if err != nil {
		panic(err)
	}
	return &Client{cc}
}

// Invoke implements grpc.ClientConnInterface.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return c.cc.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.cc.NewStream(ctx, desc, method, opts...)
}

// Close ends the connection and every call on it with codes.Canceled. Later
// calls fail with the same code. It may be called more than once.
func (c *Client) Close() error { return c.cc.Close() }

// State returns the state of the connection, as of a grpc.ClientConn.
func (c *Client) State() connectivity.State { return c.cc.GetState() }

// WaitForStateChange waits until the state is no longer from, and reports whether
// that happened before ctx ended.
func (c *Client) WaitForStateChange(ctx context.Context, from connectivity.State) bool {
	return c.cc.WaitForStateChange(ctx, from)
}

// Connect starts connecting if the client is idle. It does not wait.
func (c *Client) Connect() { c.cc.Connect() }

// Hello returns what the server said about itself on the present or latest
// connection, and whether it has said anything yet.
func (c *Client) Hello() (HelloInfo, bool) { return HelloInfo{}, false }
