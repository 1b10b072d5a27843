package rpc

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// aliasFrom is how long a message must be for its bytes field to be left where
	// it was received. Shorter ones come in one frame, whose memory is better
	// recycled: who reads the connection would have to get new memory each time.
	aliasFrom = 96 << 10
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

// unmarshalKeeping is proto.Unmarshal for a message that was received into memory
// of its own, b of the capacity size. If the message is mostly one bytes field,
// that becomes a slice of b instead of a copy, and kept is true: then b is the
// message's, for as long as the program can reach it (lent.go). A field that is kept
// alone keeps no more than half as much again as it has.
func unmarshalKeeping(b []byte, size int, m proto.Message) (kept bool, err error) {
	num, start, value, end := bulkField(b)
	if num == 0 || (end-value)*3 < size*2 {
		return false, proto.Unmarshal(b, m)
	}
	r := m.ProtoReflect()
	fd := r.Descriptor().Fields().ByNumber(num)
	if fd == nil || fd.Kind() != protoreflect.BytesKind || fd.IsList() {
		return false, proto.Unmarshal(b, m)
	}
	// What comes before the field and after it is decoded as ever: parts of an
	// encoding are merged in their order, and the last value of a field counts.
	opts := proto.UnmarshalOptions{AllowPartial: true}
	if err := opts.Unmarshal(b[:start], m); err != nil {
		return false, err
	}
	r.Set(fd, protoreflect.ValueOfBytes(b[value:end:end]))
	if end < len(b) {
		opts.Merge = true
		if err := opts.Unmarshal(b[end:], m); err != nil {
			return true, err
		}
	}
	return true, proto.CheckInitialized(m)
}

// bulkField finds the field that is more than half of the encoding b. It begins at
// start and is b[value:end]; the number is 0 if there is none that has a length
// among the first fields.
func bulkField(b []byte) (num protowire.Number, start, value, end int) {
	if len(b) < aliasFrom {
		return 0, 0, 0, 0
	}
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
