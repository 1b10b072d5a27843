package bulk

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// maxField is the largest field number of a data member.
const maxField = 7

// Layout says which fields of a message hold the data.
type Layout struct {
	Member protowire.Number // of the oneof: the message that is mostly data
	Data   protowire.Number // in that message: the bytes; its other fields are varints
}

// The layouts of the protocol.
var (
	ExecInput  = Layout{Member: 2, Data: 2} // ExecRequest.input
	ExecOutput = Layout{Member: 2, Data: 3} // ExecResponse.output
	Tunnel     = Layout{Member: 2, Data: 1} // DialRequest.segment, DialResponse.segment
	FilePiece  = Layout{Member: 2, Data: 2} // piece, write and data of FileService's streams
)

// Frame is one message: data, or Control.
//
// A Frame is used by one goroutine at a time. One that was received into holds a
// recycled buffer until Free, or until it is received into again: Data must not
// be used after that. It is written in the course of SendMsg alone.
type Frame struct {
	Layout Layout
	// Control, if not nil, is the whole message, which is not data. Before
	// receiving set it to nil.
	Control proto.Message
	// NewControl makes the message that one which is not data is decoded into.
	// Without it such a message is an error.
	NewControl func() proto.Message
	// Varints are the data member's other fields, by number. Bools are 0 and 1.
	Varints [maxField + 1]uint64
	Data    []byte

	buf  mem.Buffer // what Data is a part of, if it was received
	long []byte     // a Control that was sent and was too long for the head; used again
}

// Free gives the buffer back that Data is in. It may be called again.
func (f *Frame) Free() {
	f.Data = nil
	if f.buf != nil {
		f.buf.Free()
		f.buf = nil
	}
}

// MarshalBytes is for package rpc.
func (f *Frame) MarshalBytes(head []byte) (_, payload []byte, err error) {
	if f.Control != nil {
		size, opts := proto.Size(f.Control), proto.MarshalOptions{UseCachedSize: true}
		if size <= cap(head)-len(head) {
			head, err = opts.MarshalAppend(head, f.Control)
			return head, nil, err
		}
		f.long, err = opts.MarshalAppend(slices.Grow(f.long[:0], size), f.Control)
		return head, f.long, err
	}
	size := 0
	for n, v := range f.Varints {
		if v != 0 {
			size += protowire.SizeTag(protowire.Number(n)) + protowire.SizeVarint(v)
		}
	}
	if len(f.Data) > 0 {
		size += protowire.SizeTag(f.Layout.Data) + protowire.SizeBytes(len(f.Data))
	}
	head = protowire.AppendTag(head, f.Layout.Member, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(size))
	for n, v := range f.Varints {
		if v != 0 {
			head = protowire.AppendTag(head, protowire.Number(n), protowire.VarintType)
			head = protowire.AppendVarint(head, v)
		}
	}
	if len(f.Data) > 0 {
		head = protowire.AppendTag(head, f.Layout.Data, protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(len(f.Data)))
	}
	return head, f.Data, nil
}

// UnmarshalBytes is for package rpc.
func (f *Frame) UnmarshalBytes(data mem.Buffer) error {
	f.Free()
	f.Control = nil
	clear(f.Varints[:])
	b := data.ReadOnlyData()
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != f.Layout.Member || typ != protowire.BytesType {
		return f.unmarshalControl(b)
	}
	member, m := protowire.ConsumeBytes(b[n:])
	if m < 0 {
		return protowire.ParseError(m)
	}
	if n+m != len(b) {
		// Legal protobuf, but no sender of ours writes it: further members.
		return errors.New("a message with data has more than its data")
	}
	if err := f.unmarshalMember(member); err != nil {
		return err
	}
	if len(f.Data) > 0 {
		data.Ref()
		f.buf = data
	}
	return nil
}

func (f *Frame) unmarshalMember(b []byte) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if !num.IsValid() { // ConsumeTag lets larger ones through
			return fmt.Errorf("a field with the number %d, which is no field number", num)
		}
		b = b[n:]
		switch {
		case num == f.Layout.Data && typ == protowire.BytesType:
			f.Data, n = protowire.ConsumeBytes(b)
		case typ == protowire.VarintType && num <= maxField && num != f.Layout.Data:
			f.Varints[num], n = protowire.ConsumeVarint(b)
		default:
			// A field of a later version.
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			f.Data = nil
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil
}

func (f *Frame) unmarshalControl(b []byte) error {
	if f.NewControl == nil {
		return fmt.Errorf("a message of %d bytes is not data", len(b))
	}
	m := f.NewControl()
	if err := Unmarshal(b, m); err != nil {
		return err
	}
	f.Control = m
	return nil
}

// IsData reports whether the frame holds data rather than control.
func (f *Frame) IsData() bool { return f.Control == nil }

// Bool returns 1 for true, for Varints.
func Bool(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
