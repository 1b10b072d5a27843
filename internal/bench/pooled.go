package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/vsockrpc/vsockrpc/internal/bench/benchpb"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// pooledMsg stands for benchpb.Msg. Its data lies in a recycled buffer if it
// was received, in the sender's memory if it is to be sent.
type pooledMsg struct {
	data []byte
	buf  mem.Buffer // what data is part of; nil: of the sender's memory
}

var _ rpc.BytesMessage = (*pooledMsg)(nil)

func (m *pooledMsg) MarshalBytes(head []byte) (_, payload []byte, err error) {
	head = protowire.AppendTag(head, 1, protowire.BytesType)
	return protowire.AppendVarint(head, uint64(len(m.data))), m.data, nil
}

func (m *pooledMsg) UnmarshalBytes(data mem.Buffer) error {
	m.free()
	b := data.ReadOnlyData()
	if len(b) == 0 {
		return nil
	}
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return errors.New("not a bench.Msg")
	}
	field, n := protowire.ConsumeBytes(b[n:])
	if n < 0 {
		return protowire.ParseError(n)
	}
	data.Ref()
	m.data, m.buf = field, data
	return nil
}

// free gives the buffer back.
func (m *pooledMsg) free() {
	if m.buf != nil {
		m.buf.Free()
	}
	m.data, m.buf = nil, nil
}

func (m *pooledMsg) check(size int) error {
	if len(m.data) != size {
		return fmt.Errorf("message of %d bytes has %d", size, len(m.data))
	}
	return nil
}

// pooledServiceDesc is benchpb.Bench_ServiceDesc with handlers that use
// pooledMsg.
var pooledServiceDesc = grpc.ServiceDesc{
	ServiceName: benchpb.Bench_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Echo", Handler: pooledEcho}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Down", Handler: pooledDown, ServerStreams: true},
		{StreamName: "Up", Handler: pooledUp, ClientStreams: true},
	},
	Metadata: benchpb.Bench_ServiceDesc.Metadata,
}

// pooledReply is a pooledMsg that is recycled when it was sent.
type pooledReply struct{ pooledMsg }

var pooledReplies = sync.Pool{New: func() any { return new(pooledReply) }}

// Free is called by package rpc.
func (m *pooledReply) Free() {
	m.free()
	pooledReplies.Put(m)
}

func pooledEcho(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	m := pooledReplies.Get().(*pooledReply)
	if err := dec(m); err != nil {
		m.Free()
		return nil, err
	}
	return m, nil
}

func pooledDown(_ any, stream grpc.ServerStream) error {
	var m pooledMsg
	defer m.free()
	if err := stream.RecvMsg(&m); err != nil {
		return err
	}
	payload, more, err := downPayload(m.data)
	if err != nil {
		return err
	}
	out := pooledMsg{data: payload}
	for more() {
		if err := stream.SendMsg(&out); err != nil {
			return err
		}
	}
	return nil
}

func pooledUp(_ any, stream grpc.ServerStream) error {
	var m pooledMsg
	defer m.free()
	for {
		if err := stream.RecvMsg(&m); errors.Is(err, io.EOF) {
			return stream.SendMsg(&pooledMsg{})
		} else if err != nil {
			return err
		}
	}
}

// pooledClient makes the calls of stubClient with pooledMsg.
type pooledClient struct{ cc *rpc.Client }

func (c *pooledClient) close() error { return c.cc.Close() }

func (c *pooledClient) caller(size int) (func() error, error) {
	ctx := context.Background()
	in, out := &pooledMsg{data: make([]byte, size)}, new(pooledMsg)
	opts := []grpc.CallOption{grpc.StaticMethod()}
	return func() error {
		if err := c.cc.Invoke(ctx, benchpb.Bench_Echo_FullMethodName, in, out, opts...); err != nil {
			return err
		}
		defer out.free()
		return out.check(size)
	}, nil
}

func (c *pooledClient) down(size int, d time.Duration) (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := c.cc.NewStream(ctx, &pooledServiceDesc.Streams[0], benchpb.Bench_Down_FullMethodName, grpc.StaticMethod())
	if err != nil {
		return 0, err
	}
	if err := stream.SendMsg(&pooledMsg{data: downRequest(size, d)}); err != nil {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	var m pooledMsg
	defer m.free()
	for count := 0; ; count++ {
		err := stream.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return count, nil
		}
		if err == nil {
			err = m.check(size)
		}
		if err != nil {
			return count, err
		}
	}
}

func (c *pooledClient) up(size int, more func() bool) (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := c.cc.NewStream(ctx, &pooledServiceDesc.Streams[1], benchpb.Bench_Up_FullMethodName, grpc.StaticMethod())
	if err != nil {
		return 0, err
	}
	m, count := pooledMsg{data: make([]byte, size)}, 0
	for ; more(); count++ {
		if err := stream.SendMsg(&m); err != nil {
			return count, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return count, err
	}
	var answer pooledMsg
	defer answer.free()
	return count, stream.RecvMsg(&answer)
}
