package rpc

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// The stock server is given one codec for all calls, as it would not know a
// BytesMessage otherwise, and then looks at no content subtype. So a message of a
// call with another one is wrapped with its codec, on its way to and from the
// stock server.

// subtyped is a message that has a codec of its own.
type subtyped struct {
	v     any
	codec encoding.CodecV2
}

// http2Codec is Codec, and knows what is wrapped.
type http2Codec struct{ codec }

// Marshal implements encoding.CodecV2.
func (c http2Codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(subtyped); ok {
		return m.codec.Marshal(m.v)
	}
	return c.codec.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c http2Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(subtyped); ok {
		return m.codec.Unmarshal(data, m.v)
	}
	return c.codec.Unmarshal(data, v)
}

// subtypeCodec returns the codec of a call over HTTP/2, nil for that of all others.
func subtypeCodec(ctx context.Context) (encoding.CodecV2, error) {
	kind := metadata.ValueFromIncomingContext(ctx, "content-type")
	if len(kind) == 0 {
		return nil, nil
	}
	// gRPC takes both forms, and has checked what comes before.
	_, name, ok := strings.Cut(strings.ToLower(kind[0]), "application/grpc+")
	if !ok {
		_, name, _ = strings.Cut(strings.ToLower(kind[0]), "application/grpc;")
	}
	if name == "" || name == "proto" {
		return nil, nil
	}
	c, ok := findCodec(name)
	if !ok {
		return nil, unknownSubtype(name)
	}
	return c, nil
}

// forHTTP2 returns desc with unary methods that take messages in every codec that
// is registered. For streams subtypeStreams does it.
func forHTTP2(desc *grpc.ServiceDesc) *grpc.ServiceDesc {
	d := *desc
	d.Methods = slices.Clone(desc.Methods)
	for i := range d.Methods {
		h := d.Methods[i].Handler
		d.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
			c, err := subtypeCodec(ctx)
			if err != nil {
				return nil, err
			}
			if c == nil {
				return h(srv, ctx, dec, in)
			}
			reply, err := h(srv, ctx, func(v any) error { return dec(subtyped{v, c}) }, in)
			if err != nil {
				return nil, err
			}
			return subtyped{reply, c}, nil
		}
	}
	return &d
}

// subtypeStreams is the outermost of the interceptors of streams.
func subtypeStreams(srv any, st grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	c, err := subtypeCodec(st.Context())
	if err != nil {
		return err
	}
	if c != nil {
		st = subtypedStream{st, c}
	}
	return h(srv, st)
}

type subtypedStream struct {
	grpc.ServerStream
	codec encoding.CodecV2
}

func (s subtypedStream) SendMsg(m any) error { return s.ServerStream.SendMsg(subtyped{m, s.codec}) }
func (s subtypedStream) RecvMsg(m any) error { return s.ServerStream.RecvMsg(subtyped{m, s.codec}) }
