package rpc

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// bytesFields is how many fields are looked at to find the one that is most of a
	// message.
	bytesFields = 16
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
	for i := 0; i < fields.Len() && i < bytesFields && fd == nil; i++ {
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
