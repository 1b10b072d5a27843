package guest

import (
	"context"
	"slices"

	"google.golang.org/grpc"
)

// intercepted is a connection whose calls go through interceptors, the first of them
// outermost.
type intercepted struct {
	grpc.ClientConnInterface
	unary  []grpc.UnaryClientInterceptor
	stream []grpc.StreamClientInterceptor
}

// intercept returns conn with the interceptors of cfg.
func intercept(conn grpc.ClientConnInterface, cfg *Config) grpc.ClientConnInterface {
	if len(cfg.UnaryInterceptors) == 0 && len(cfg.StreamInterceptors) == 0 {
		return conn
	}
	return intercepted{conn, cfg.UnaryInterceptors, cfg.StreamInterceptors}
}

// Invoke implements grpc.ClientConnInterface.
func (c intercepted) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	invoke := func(ctx context.Context, method string, req, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		return c.ClientConnInterface.Invoke(ctx, method, req, reply, opts...)
	}
	for _, i := range slices.Backward(c.unary) {
		next := invoke
		invoke = func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			return i(ctx, method, req, reply, cc, next, opts...)
		}
	}
	return invoke(ctx, method, args, reply, nil, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (c intercepted) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	open := func(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return c.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	}
	for _, i := range slices.Backward(c.stream) {
		next := open
		open = func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return i(ctx, desc, cc, method, next, opts...)
		}
	}
	return open(ctx, desc, nil, method, opts...)
}
