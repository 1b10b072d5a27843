package rpc

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// bulkDesc describes a message with bytes in a field, in a list and in a oneof.
func bulkDesc(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	field := func(name string, n int32, typ descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Type: &typ, Label: &label}
	}
	const (
		typeBytes  = descriptorpb.FieldDescriptorProto_TYPE_BYTES
		typeString = descriptorpb.FieldDescriptorProto_TYPE_STRING
		optional   = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		repeated   = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	)
	one, two := field("one", 4, typeBytes, optional), field("two", 5, typeString, optional)
	one.OneofIndex, two.OneofIndex = new(int32), new(int32)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("bulk.proto"), Syntax: proto.String("proto2"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Bulk"),
			Field: []*descriptorpb.FieldDescriptorProto{
				field("name", 1, typeString, descriptorpb.FieldDescriptorProto_LABEL_REQUIRED),
				field("data", 2, typeBytes, optional),
				field("list", 3, typeBytes, repeated), one, two,
			},
			OneofDecl: []*descriptorpb.OneofDescriptorProto{{Name: proto.String("choice")}},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().Get(0)
}

// within reports whether v lies in mem.
func within(v, mem []byte) bool {
	for i := range mem {
		if &mem[i] == &v[0] {
			return true
		}
	}
	return false
}

func FuzzMarshalAround(f *testing.F) {
	desc := bulkDesc(f)
	f.Add([]byte("\n\x01n"), []byte("\x12\x02xy"), true)
	f.Add([]byte("\n\x01n"), []byte("*\x01x"), false)
	f.Fuzz(func(t *testing.T, before, after []byte, data bool) {
		num := protowire.Number(4)
		if data {
			num = 2
		}
		b := append([]byte(nil), before...)
		b = protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), make([]byte, refFrom))
		b = append(b, after...)
		m := dynamicpb.NewMessage(desc)
		if proto.Unmarshal(b, m) == nil {
			checkMarshalAround(t, m)
		}
	})
}

// checkMarshalAround encodes m in two parts, if it is mostly one bytes field, and
// returns that.
func checkMarshalAround(t *testing.T, m *dynamicpb.Message) []byte {
	t.Helper()
	before := proto.Clone(m)
	head, bulk, err := marshalAround([]byte("room"), m, proto.Size(m))
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(before, m) {
		t.Error("the message was changed")
	}
	if bulk == nil {
		return nil
	}
	if !bytes.HasPrefix(head, []byte("room")) {
		t.Fatalf("head begins with %q", head[:min(4, len(head))])
	}
	b := append(head[4:], bulk...)
	if len(b) != proto.Size(m) {
		t.Errorf("%d bytes, want %d", len(b), proto.Size(m))
	}
	got := dynamicpb.NewMessage(m.Descriptor())
	if err := proto.Unmarshal(b, got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, m) {
		t.Error("another message was encoded")
	}
	return bulk
}

func TestMarshalAround(t *testing.T) {
	desc := bulkDesc(t)
	long := bytes.Repeat([]byte("0123456789abcdef"), refFrom/16)
	field := func(n protowire.Number) protoreflect.FieldDescriptor { return desc.Fields().ByNumber(n) }
	message := func(data []byte) *dynamicpb.Message {
		m := dynamicpb.NewMessage(desc)
		m.Set(field(1), protoreflect.ValueOfString("n"))
		if data != nil {
			m.Set(field(2), protoreflect.ValueOfBytes(data))
		}
		return m
	}
	tests := map[string]struct {
		set  func(m *dynamicpb.Message)
		data []byte
		bulk bool
	}{
		"with another field": {func(*dynamicpb.Message) {}, long, true},
		"unknown fields": {func(m *dynamicpb.Message) {
			m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 7))
		}, long, true},
		"list": {func(m *dynamicpb.Message) {
			m.Mutable(field(3)).List().Append(protoreflect.ValueOfBytes([]byte("x")))
		}, long, true},
		"chosen":         {func(m *dynamicpb.Message) { m.Set(field(4), protoreflect.ValueOfBytes(long)) }, nil, true},
		"another chosen": {func(m *dynamicpb.Message) { m.Set(field(5), protoreflect.ValueOfString("x")) }, long, true},
		"two halves":     {func(m *dynamicpb.Message) { m.Set(field(4), protoreflect.ValueOfBytes(long)) }, long, false},
		"long list": {func(m *dynamicpb.Message) {
			m.Mutable(field(3)).List().Append(protoreflect.ValueOfBytes(long))
		}, nil, false},
		"long string": {func(m *dynamicpb.Message) { m.Set(field(1), protoreflect.ValueOfString(string(long))) }, nil, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := message(tt.data)
			tt.set(m)
			bulk := checkMarshalAround(t, m)
			if (bulk != nil) != tt.bulk {
				t.Fatalf("in two parts: %v, want %v", bulk != nil, tt.bulk)
			}
			if tt.bulk && !within(bulk, long) {
				t.Error("the bytes were copied")
			}
		})
	}
	t.Run("required is missing", func(t *testing.T) {
		m := message(long)
		m.Clear(field(1))
		m.Set(field(5), protoreflect.ValueOfString("x"))
		if _, _, err := marshalAround(nil, m, proto.Size(m)); err == nil {
			t.Error("encoded without a required field")
		}
	})
	t.Run("required is missing, and nothing else there", func(t *testing.T) {
		m := message(long)
		m.Clear(field(1))
		if _, _, err := marshalAround(nil, m, proto.Size(m)); err == nil {
			t.Error("encoded without a required field")
		}
	})
}

// TestLongMessageIsItsSendersAgain: although the bytes of a long message are sent
// from where they are, they may be changed as soon as SendMsg has returned.
func TestLongMessageIsItsSendersAgain(t *testing.T) {
	e := &echo{both: func(st grpc.ServerStream) error {
		for {
			var m wrapperspb.BytesValue
			if err := st.RecvMsg(&m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := st.SendMsg(&m); err != nil {
				return err
			}
			clear(m.Value)
		}
	}}
	for _, which := range []string{"native/unix", "native/pipe", "native/tls"} {
		t.Run(which, func(t *testing.T) {
			cc := clientFor(t, serveFor(t, newEchoServer(e, serverConfigFor(which)), which), which)
			st, err := cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both")
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 300<<10)
			for i := range 40 {
				out := buf[:refFrom+i*7000]
				for k := range out {
					out[k] = byte(i)
				}
				if err := st.SendMsg(wrapperspb.Bytes(out)); err != nil {
					t.Fatal(err)
				}
				clear(out)
				var in wrapperspb.BytesValue
				if err := st.RecvMsg(&in); err != nil {
					t.Fatal(err)
				}
				if len(in.Value) != len(out) || bytes.Count(in.Value, []byte{byte(i)}) != len(out) {
					t.Fatalf("message %d came back changed", i)
				}
			}
		})
	}
}
