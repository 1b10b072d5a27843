package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// statsHandlers tells a server's or client's stats handlers what happens, in the
// order in which gRPC does. With none of them nothing here does anything.
type statsHandlers []stats.Handler

func (h statsHandlers) connBegin(ctx context.Context, nc net.Conn, client bool) context.Context {
	for _, s := range h {
		ctx = s.TagConn(ctx, &stats.ConnTagInfo{RemoteAddr: nc.RemoteAddr(), LocalAddr: nc.LocalAddr()})
		s.HandleConn(ctx, &stats.ConnBegin{Client: client})
	}
	return ctx
}

func (h statsHandlers) connEnd(ctx context.Context, client bool) {
	for _, s := range h {
		s.HandleConn(ctx, &stats.ConnEnd{Client: client})
	}
}

func (h statsHandlers) all(ctx context.Context, e stats.RPCStats) {
	for _, s := range h {
		s.HandleRPC(ctx, e)
	}
}

// begin tags the context of a call and tells that it has begun.
func (h statsHandlers) begin(ss *serverStream) {
	if h == nil {
		return
	}
	var ctx context.Context = ss.ctx
	for _, s := range h {
		ctx = s.TagRPC(ctx, &stats.RPCTagInfo{FullMethodName: ss.m.name})
	}
	ss.stats = ctx
	ss.begun = time.Now()
	h.all(ctx, &stats.InHeader{FullMethod: ss.m.name, RemoteAddr: ss.c.nc.RemoteAddr(), LocalAddr: ss.c.nc.LocalAddr(), Header: ss.ctx.md.Copy()})
	b := &stats.Begin{BeginTime: ss.begun}
	if d := ss.m.stream; d != nil {
		b.IsClientStream, b.IsServerStream = d.ClientStreams, d.ServerStreams
	}
	h.all(ctx, b)
}

func (h statsHandlers) outHeader(ss *serverStream) {
	if h != nil && ss.stats != nil {
		h.all(ss.stats, &stats.OutHeader{FullMethod: ss.m.name, RemoteAddr: ss.c.nc.RemoteAddr(), LocalAddr: ss.c.nc.LocalAddr(), Header: ss.header.Copy()})
	}
}

func (h statsHandlers) inPayload(ctx context.Context, v any, size int, client bool) {
	if h != nil {
		h.all(ctx, &stats.InPayload{Client: client, Payload: v, Length: size, CompressedLength: size, WireLength: size + wire.HeaderLen, RecvTime: time.Now()})
	}
}

func (h statsHandlers) outPayload(ctx context.Context, v any, size int, client bool) {
	if h != nil {
		h.all(ctx, &stats.OutPayload{Client: client, Payload: v, Length: size, CompressedLength: size, WireLength: size + wire.HeaderLen, SentTime: time.Now()})
	}
}

// end tells that a call has ended.
func (h statsHandlers) end(ss *serverStream, st *status.Status, trailer metadata.MD) {
	if h == nil || ss.stats == nil {
		return
	}
	h.all(ss.stats, &stats.OutTrailer{Trailer: trailer.Copy()})
	h.all(ss.stats, &stats.End{BeginTime: ss.begun, EndTime: time.Now(), Error: st.Err()})
}

// clientEnd tells that a call of a client has ended with err.
func (h statsHandlers) clientEnd(ctx context.Context, begun time.Time, trailer metadata.MD, err error) {
	if h == nil {
		return
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	h.all(ctx, &stats.End{Client: true, BeginTime: begun, EndTime: time.Now(), Trailer: trailer, Error: err})
}
