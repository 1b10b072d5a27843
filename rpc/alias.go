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
)

// unmarshalKeeping is proto.Unmarshal for a message that was received into memory
// of its own, b of the capacity size. If the message is mostly one bytes field,
// that becomes a slice of b instead of a copy, and kept is true: then b belongs to
// the message, and to the garbage collector. A field that is kept alone keeps no
// more than half as much again as it has.
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
