package guest

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// The messages that carry the bytes of streams are protobuf messages on the wire
// and rpc.BytesMessages here: output stays in the buffer that it was received
// into until it is consumed, and input is sent from where it lies.

// The numbers of the fields in process.proto and session.proto.
const (
	fieldOutput = 2 // of ExecResponse
	fieldStream = 1 // of Output
	fieldOffset = 2
	fieldData   = 3
	fieldEOF    = 4
	fieldLost   = 5
	fieldAck    = 6

	fieldInput       = 2 // of ExecRequest
	fieldInputOffset = 1 // of Input
	fieldInputData   = 2
	fieldInputEOF    = 3
)

// response is an ExecResponse. If buffer is not nil, the data of its output lies
// there, and whoever takes the message over frees it.
type response struct {
	*guestv1.ExecResponse
	buffer mem.Buffer
}

var _ rpc.BytesMessage = (*response)(nil)

// UnmarshalBytes implements rpc.BytesMessage. It keeps the buffer of a piece of
// output that fills most of it; all else is decoded as usual.
func (m *response) UnmarshalBytes(data mem.Buffer) error {
	raw := data.ReadOnlyData()
	if out := outputIn(raw); out != nil && len(out.Data) >= coalesceBelow && cap(raw) <= 2*len(out.Data) {
		data.Ref()
		m.buffer = data
		m.ExecResponse = &guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: out}}
		return nil
	}
	m.ExecResponse = new(guestv1.ExecResponse)
	return bulk.Unmarshal(raw, m.ExecResponse)
}

// MarshalBytes implements rpc.BytesMessage. A client never sends one.
func (m *response) MarshalBytes(head []byte) (_, payload []byte, err error) {
	head, err = proto.MarshalOptions{}.MarshalAppend(head, m.ExecResponse)
	return head, nil, err
}

// outputIn decodes an ExecResponse that is one Output, without copying its data.
// It returns nil for any other message, well formed or not.
func outputIn(raw []byte) *guestv1.Output {
	number, kind, n := protowire.ConsumeTag(raw)
	if n < 0 || number != fieldOutput || kind != protowire.BytesType {
		return nil
	}
	body, m := protowire.ConsumeBytes(raw[n:])
	if m < 0 || n+m != len(raw) {
		return nil
	}
	out := &guestv1.Output{}
	for len(body) > 0 {
		number, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return nil
		}
		body = body[n:]
		var v uint64
		switch {
		case number == fieldData && kind == protowire.BytesType:
			out.Data, n = protowire.ConsumeBytes(body)
			out.Data = out.Data[:len(out.Data):len(out.Data)]
		case kind == protowire.VarintType:
			v, n = protowire.ConsumeVarint(body)
		default:
			return nil
		}
		if n < 0 {
			return nil
		}
		body = body[n:]
		if kind != protowire.VarintType {
			continue
		}
		switch number {
		case fieldStream:
			out.Stream = guestv1.Stream(v)
		case fieldOffset:
			out.Offset = v
		case fieldEOF:
			out.Eof = protowire.DecodeBool(v)
		case fieldLost:
			out.Lost = v
		case fieldAck:
			out.Acknowledge = protowire.DecodeBool(v)
		default:
			return nil
		}
	}
	return out
}

// inputRequest is an ExecRequest with an Input.
type inputRequest struct{ *guestv1.Input }

var _ rpc.BytesMessage = inputRequest{}

// MarshalBytes implements rpc.BytesMessage.
func (m inputRequest) MarshalBytes(head []byte) (_, payload []byte, err error) {
	var room [32]byte
	fields := room[:0]
	for _, f := range []struct {
		number protowire.Number
		value  uint64
	}{{fieldInputOffset, m.Offset}, {fieldInputEOF, protowire.EncodeBool(m.Eof)}} {
		if f.value != 0 {
			fields = protowire.AppendTag(fields, f.number, protowire.VarintType)
			fields = protowire.AppendVarint(fields, f.value)
		}
	}
	if len(m.Data) > 0 {
		fields = protowire.AppendTag(fields, fieldInputData, protowire.BytesType)
		fields = protowire.AppendVarint(fields, uint64(len(m.Data)))
	}
	head = protowire.AppendTag(head, fieldInput, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(fields)+len(m.Data)))
	return append(head, fields...), m.Data, nil
}

// UnmarshalBytes implements rpc.BytesMessage. A client never receives one.
func (m inputRequest) UnmarshalBytes(data mem.Buffer) error {
	req := new(guestv1.ExecRequest)
	if err := proto.Unmarshal(data.ReadOnlyData(), req); err != nil {
		return err
	}
	proto.Merge(m.Input, req.GetInput())
	return nil
}
