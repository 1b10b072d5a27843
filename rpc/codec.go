package rpc

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
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
//
// If the reply of a unary handler is a BytesMessage with a method Free(), the native
// wire calls it, once, when the handler has returned and the reply is no longer
// needed, whether it was sent or not. It may be called on any goroutine and must
// not block. Stock gRPC does not call it.
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
		// Not grpc's own pool: from that a little more than 32 KiB is 1 MiB, set to
		// zero each time.
		b := buf.Pool.Get(len(head) + len(payload))
		copy((*b)[copy(*b, head):], payload)
		return mem.BufferSlice{mem.NewBuffer(b, &buf.Pool)}, nil
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
	b := buf.Pool.Get(size)
	if _, err := opts.MarshalAppend((*b)[:0], m); err != nil {
		buf.Pool.Put(b)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(b, &buf.Pool)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	b := data.MaterializeToBuffer(&buf.Pool)
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

// callCodec is how a call's messages are encoded. The zero value is Codec without
// the detours of encoding.CodecV2.
type callCodec struct{ v2 encoding.CodecV2 }

// codecV1 is a Codec of the first version as a CodecV2.
type codecV1 struct{ encoding.Codec }

func (c codecV1) Marshal(v any) (mem.BufferSlice, error) {
	b, err := c.Codec.Marshal(v)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (c codecV1) Unmarshal(data mem.BufferSlice, v any) error {
	return c.Codec.Unmarshal(data.Materialize(), v)
}

// encoded is an encoded message: head followed by body.
type encoded struct {
	head, body []byte
	own        *[]byte    // pooled memory of head or body
	ref        mem.Buffer // memory of body, from a codec of the application's
	reply      freer      // what body is the payload of, if it is a unary reply
}

// freer is a BytesMessage that wants to know when it was sent.
type freer interface {
	BytesMessage
	Free()
}

func (e *encoded) size() int { return len(e.head) + len(e.body) }

// encode encodes v.
func (e *encoded) encode(cd *callCodec, v any) error {
	if v == nil {
		return nil // an empty message, as gRPC has it
	}
	if cd.v2 != nil {
		bs, err := cd.v2.Marshal(v)
		if err != nil {
			return status.Errorf(codes.Internal, "rpc: error while marshaling: %v", err)
		}
		e.ref = bs.MaterializeToBuffer(mem.DefaultBufferPool())
		bs.Free()
		e.body = e.ref.ReadOnlyData()
		return nil
	}
	if bm, ok := v.(BytesMessage); ok {
		e.own = buf.Pool.Get(headSize)
		head, payload, err := bm.MarshalBytes((*e.own)[:0])
		if err != nil {
			e.free()
			return status.Errorf(codes.Internal, "rpc: error while marshaling: %v", err)
		}
		e.head, e.body = head, payload
		return nil
	}
	m, err := protoMessage(v)
	if err != nil {
		return status.Errorf(codes.Internal, "rpc: error while marshaling: %v", err)
	}
	size := proto.Size(m)
	if _, ok := v.(proto.Message); ok && size >= refFrom {
		e.own = buf.Pool.Get(headSize)
		e.head, e.body, err = marshalAround((*e.own)[:0], m, size)
		if err != nil {
			e.free()
			return status.Errorf(codes.Internal, "rpc: error while marshaling: %v", err)
		}
		if e.body != nil {
			return nil
		}
		buf.Pool.Put(e.own)
	}
	e.own = buf.Pool.Get(size)
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*e.own)[:0], m)
	if err != nil {
		e.free()
		return status.Errorf(codes.Internal, "rpc: error while marshaling: %v", err)
	}
	e.body = b
	return nil
}

// headSize is the room for the head of a BytesMessage; a longer one is allocated.
const headSize = 256

// free gives the memory back.
func (e *encoded) free() {
	if e.own != nil {
		buf.Pool.Put(e.own)
	}
	if e.ref != nil {
		e.ref.Free()
	}
	if e.reply != nil {
		e.reply.Free()
	}
	*e = encoded{}
}

// keep returns e for another owner, which frees it later, and leaves nothing in e to free.
func (e *encoded) keep() *encoded {
	k := *e
	*e = encoded{}
	return &k
}
