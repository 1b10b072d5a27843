package rpc

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// aliasFrom is how long a message of a stream must be for its bytes field to be
	// left where it was received. Shorter ones come in one frame, whose memory is
	// better recycled: who reads the connection would have to get other memory each
	// time. They share slabs.
	aliasFrom = 96 << 10
	// aliasCall is the same for the one message of a call, which has no slab.
	aliasCall = 32 << 10
	// aliasFields is how many fields are looked at to find it.
	aliasFields = 16
	// refFrom is how long a message must be for its bytes field to be sent from where
	// it is. To copy a shorter one is no dearer.
	refFrom = 16 << 10
)

// marshalAround encodes m, of the encoded length size, in two parts: what it appends
// to b and, if m is mostly one bytes field, the contents of that field as they lie
// in m. bulk is nil if m is not, and then nothing is encoded.
func marshalAround(b []byte, m proto.Message, size int) (head, bulk []byte, err error) {
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	var fd protoreflect.FieldDescriptor
	for i := 0; i < fields.Len() && i < aliasFields && fd == nil; i++ {
		if f := fields.Get(i); f.Kind() == protoreflect.BytesKind && !f.IsList() && r.Has(f) {
			if v := r.Get(f).Bytes(); len(v) > size/2 {
				fd, bulk = f, v
			}
		}
	}
	if fd == nil {
		return nil, nil, nil
	}
	if err := proto.CheckInitialized(m); err != nil {
		return nil, nil, err
	}
	if size > protowire.SizeTag(fd.Number())+protowire.SizeBytes(len(bulk)) {
		// The order of fields is free, so that this one may come last. m is not
		// changed: others may be reading it.
		rest := r.New()
		r.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if f != fd {
				rest.Set(f, v)
			}
			return true
		})
		rest.SetUnknown(r.GetUnknown())
		b, err = proto.MarshalOptions{AllowPartial: true}.MarshalAppend(b, rest.Interface())
		if err != nil {
			return nil, nil, err
		}
	}
	b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
	return protowire.AppendVarint(b, uint64(len(bulk))), bulk, nil
}

// A bytesField is the bytes field that most of an encoding consists of.
type bytesField struct {
	fd         protoreflect.FieldDescriptor
	start      int // of the field in the encoding
	value, end int // of its contents
}

// mostlyBytes finds the field that is more than half of the encoding b of an m.
func mostlyBytes(b []byte, m protoreflect.Message) (f bytesField, ok bool) {
	num, start, value, end := longField(b)
	if num == 0 {
		return bytesField{}, false
	}
	fd := m.Descriptor().Fields().ByNumber(num)
	return bytesField{fd, start, value, end}, fd != nil && fd.Kind() == protoreflect.BytesKind && !fd.IsList()
}

// unmarshal is proto.Unmarshal of b, but for the contents of f, which v stands for: that
// becomes m's without a copy.
func (f *bytesField) unmarshal(b []byte, m protoreflect.Message, v []byte) error {
	// What comes before the field and after it is decoded as ever: parts of an
	// encoding are merged in their order, and the last value of a field counts.
	opts := proto.UnmarshalOptions{AllowPartial: true}
	if err := opts.Unmarshal(b[:f.start], m.Interface()); err != nil {
		return err
	}
	m.Set(f.fd, protoreflect.ValueOfBytes(v[:len(v):len(v)]))
	if f.end < len(b) {
		opts.Merge = true
		if err := opts.Unmarshal(b[f.end:], m.Interface()); err != nil {
			return err
		}
	}
	return proto.CheckInitialized(m.Interface())
}

// longField finds the field that is more than half of the encoding b. It begins at
// start and is b[value:end]; the number is 0 if there is none that has a length
// among the first fields.
func longField(b []byte) (num protowire.Number, start, value, end int) {
	at := 0
	for range aliasFields {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return 0, 0, 0, 0
		}
		k := protowire.ConsumeFieldValue(num, typ, b[at+n:])
		if k < 0 {
			return 0, 0, 0, 0
		}
		end := at + n + k
		if k > len(b)/2 && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[at+n:])
			return num, at, end - len(v), end
		}
		if at = end; at == len(b) {
			break
		}
	}
	return 0, 0, 0, 0
}
