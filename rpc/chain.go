package rpc

import (
	"context"
	"reflect"

	"google.golang.org/grpc"
)

// chain joins interceptors to one, the first outermost. nil ones are left out.
func chain[I any](first I, more []I, join func(outer, inner I) I) (all I) {
	present := func(i I) bool { return !reflect.ValueOf(i).IsNil() }
	for k := len(more) - 1; k >= -1; k-- {
		next := first
		if k >= 0 {
			next = more[k]
		}
		switch {
		case !present(next):
		case !present(all):
			all = next
		default:
			all = join(next, all)
		}
	}
	return all
}

func joinUnaryServer(outer, inner grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		return outer(ctx, req, info, func(ctx context.Context, req any) (any, error) { return inner(ctx, req, info, h) })
	}
}

func joinStreamServer(outer, inner grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, st grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		return outer(srv, st, info, func(srv any, st grpc.ServerStream) error { return inner(srv, st, info, h) })
	}
}

func joinUnaryClient(outer, inner grpc.UnaryClientInterceptor) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return outer(ctx, method, req, reply, cc, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			return inner(ctx, method, req, reply, cc, invoke, opts...)
		}, opts...)
	}
}

func joinStreamClient(outer, inner grpc.StreamClientInterceptor) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return outer(ctx, desc, cc, method, func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return inner(ctx, desc, cc, method, open, opts...)
		}, opts...)
	}
}
