package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// BytesMessage is a message that is mostly one bytes field, written by hand to
// stand for a protobuf message. Give it to SendMsg and RecvMsg of a generated
// stream (stream.SendMsg(m) instead of stream.Send(&pb.Chunk{…})), to Invoke of a
// Client, or to the dec function of a hand-written unary method. On the native
// wire nothing else is needed; for stock gRPC set Codec as the codec.
//
// A payload of a few kilobytes and more goes from the sender's memory to the
// socket, and from the socket into a recycled buffer that the receiver owns
// until it frees it: it is not copied in between.
type BytesMessage interface {
	// MarshalBytes appends the encoding of the message up to the contents of its
	// bytes field, which must come last, to head, and returns that and the
	// contents. Both are only read, and not after SendMsg or Invoke has
	// returned: the payload's memory is the sender's again, also after an error.
	MarshalBytes(head []byte) (_, payload []byte, err error)
	// UnmarshalBytes decodes data, the whole encoding. data belongs to the caller:
	// to keep a slice of it after returning, the message must take a reference
	// (data.Ref) and give it back (data.Free), once, when it no longer needs the
	// slice. A message that is decoded into a second time frees what it still
	// holds first.
	UnmarshalBytes(data mem.Buffer) error
}

// Codec returns the codec that the native wire uses for messages, for stock
// gRPC: pass it to grpc.ForceServerCodecV2 or grpc.ForceCodecV2. Its name is
// "proto"; it handles every proto.Message as gRPC's own codec does, and
// BytesMessage as well.
//
// Stock gRPC sends a message after SendMsg has returned, so there the payload
// of a BytesMessage is copied once into a pooled buffer.
func Codec() encoding.CodecV2 { return codec{} }

type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(BytesMessage); ok {
		var room [64]byte
		head, payload, err := m.MarshalBytes(room[:0])
		if err != nil {
			return nil, err
		}
		pool := mem.DefaultBufferPool()
		b := pool.Get(len(head) + len(payload))
		copy((*b)[copy(*b, head):], payload)
		return mem.BufferSlice{mem.NewBuffer(b, pool)}, nil
	}
	m, err := protoMessage(v)
	if err != nil {
		return nil, err
	}
	size := proto.Size(m)
	opts := proto.MarshalOptions{UseCachedSize: true}
	if mem.IsBelowBufferPoolingThreshold(size) {
		b, err := opts.Marshal(m)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	pool := mem.DefaultBufferPool()
	b := pool.Get(size)
	if _, err := opts.MarshalAppend((*b)[:0], m); err != nil {
		pool.Put(b)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(b, pool)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	if m, ok := v.(BytesMessage); ok {
		return m.UnmarshalBytes(b)
	}
	m, err := protoMessage(v)
	if err != nil {
		return err
	}
	return proto.Unmarshal(b.ReadOnlyData(), m)
}

// protoMessage returns v as a message of the current protobuf API.
func protoMessage(v any) (proto.Message, error) {
	switch v := v.(type) {
	case protoadapt.MessageV2:
		return v, nil
	case protoadapt.MessageV1:
		return protoadapt.MessageV2Of(v), nil
	}
	return nil, fmt.Errorf("message is %T, want proto.Message or rpc.BytesMessage", v)
}
