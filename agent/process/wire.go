package process

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// The messages that carry the bytes of streams are protobuf messages to stock
// gRPC. To package rpc they are a head and a payload beside (its
// BytesMessage), so that bytes go from the ring to the socket, and from the
// socket to the process, with no copy between.

// outputResponse is an ExecResponse with an Output.
type outputResponse struct {
	*guestv1.ExecResponse
	output *guestv1.Output
}

func newOutputResponse(o *guestv1.Output) *outputResponse {
	return &outputResponse{&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: o}}, o}
}

// The numbers of the fields in session.proto and process.proto.
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

// MarshalBytes implements rpc.BytesMessage.
func (m *outputResponse) MarshalBytes(head []byte) (_, payload []byte, err error) {
	o := m.output
	var room [48]byte
	fields := appendVarint(room[:0], fieldStream, uint64(o.Stream))
	fields = appendVarint(fields, fieldOffset, o.Offset)
	fields = appendVarint(fields, fieldEOF, protowire.EncodeBool(o.Eof))
	fields = appendVarint(fields, fieldLost, o.Lost)
	fields = appendVarint(fields, fieldAck, protowire.EncodeBool(o.Acknowledge))
	if len(o.Data) > 0 {
		fields = protowire.AppendTag(fields, fieldData, protowire.BytesType)
		fields = protowire.AppendVarint(fields, uint64(len(o.Data)))
	}
	head = protowire.AppendTag(head, fieldOutput, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(fields)+len(o.Data)))
	return append(head, fields...), o.Data, nil
}

// UnmarshalBytes implements rpc.BytesMessage. The agent never receives one.
func (m *outputResponse) UnmarshalBytes(data mem.Buffer) error {
	return proto.Unmarshal(data.ReadOnlyData(), m.ExecResponse)
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// inputRequest is an ExecRequest whose stdin, if it carries any, may lie in a
// buffer of the connection.
type inputRequest struct {
	*guestv1.ExecRequest
	buffer mem.Buffer // nil: the message has its own memory
}

func newInputRequest() *inputRequest { return &inputRequest{ExecRequest: new(guestv1.ExecRequest)} }

// free gives the buffer back; the stdin in it is gone.
func (m *inputRequest) free() {
	if m.buffer != nil {
		m.buffer.Free()
		m.buffer = nil
	}
}

// MarshalBytes implements rpc.BytesMessage. The agent never sends one.
func (m *inputRequest) MarshalBytes(head []byte) (_, payload []byte, err error) {
	head, err = proto.MarshalOptions{}.MarshalAppend(head, m.ExecRequest)
	return head, nil, err
}

// UnmarshalBytes implements rpc.BytesMessage. Of a large piece of stdin it
// keeps the buffer; all else is decoded as usual.
func (m *inputRequest) UnmarshalBytes(data mem.Buffer) error {
	m.free()
	raw := data.ReadOnlyData()
	if in := inputIn(raw); in != nil && len(in.Data) > smallInput {
		data.Ref()
		m.buffer = data
		m.Message = &guestv1.ExecRequest_Input{Input: in}
		return nil
	}
	return proto.Unmarshal(raw, m.ExecRequest)
}

// inputIn decodes an ExecRequest that is one Input, without copying its data.
// It returns nil for any other message, well formed or not.
func inputIn(raw []byte) *guestv1.Input {
	number, kind, n := protowire.ConsumeTag(raw)
	if n < 0 || number != fieldInput || kind != protowire.BytesType {
		return nil
	}
	body, m := protowire.ConsumeBytes(raw[n:])
	if m < 0 || n+m != len(raw) {
		return nil
	}
	in := &guestv1.Input{}
	for len(body) > 0 {
		number, kind, n := protowire.ConsumeTag(body)
		if n < 0 {
			return nil
		}
		body = body[n:]
		switch {
		case number == fieldInputData && kind == protowire.BytesType:
			in.Data, n = protowire.ConsumeBytes(body)
		case number == fieldInputOffset && kind == protowire.VarintType:
			in.Offset, n = protowire.ConsumeVarint(body)
		case number == fieldInputEOF && kind == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(body)
			in.Eof = protowire.DecodeBool(v)
		default:
			return nil
		}
		if n < 0 {
			return nil
		}
		body = body[n:]
	}
	return in
}
