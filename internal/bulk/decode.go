package bulk

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxDecoded bounds the memory of a message that another machine has sent, once it is
// decoded. Two bytes can stand for an element of a list that takes hundreds.
const MaxDecoded = 12 << 20

// Estimates of what decoded parts take, in bytes.
const (
	messageSize = 320 // a message, as large as the largest of the protocol
	valueSize   = 32  // a slice, a string, or a number in a list
	mapSize     = 96  // an element of a map
)

// leastChecked is the shortest message that can become larger than MaxDecoded.
const leastChecked = MaxDecoded / (messageSize + valueSize) * 2

// Unmarshal decodes b into m, as proto.Unmarshal does, unless that would take more
// memory than MaxDecoded.
func Unmarshal(b []byte, m proto.Message) error {
	if len(b) >= leastChecked {
		if left := room(b, m.ProtoReflect().Descriptor(), MaxDecoded, 0); left < 0 {
			return fmt.Errorf("a message of %d bytes takes more than %d MiB of memory", len(b), MaxDecoded>>20)
		}
	}
	return proto.Unmarshal(b, m)
}

// maxNesting bounds how deep messages lie in each other; proto.Unmarshal refuses more.
const maxNesting = 100

// room returns what is left of so many bytes once b is decoded, less than 0 if it is
// not enough. What is malformed costs nothing: decoding ends there.
func room(b []byte, md protoreflect.MessageDescriptor, left, depth int) int {
	if depth > maxNesting {
		return left
	}
	left -= messageSize
	for len(b) > 0 && left >= 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return left
		}
		value := b[n:]
		size := protowire.ConsumeFieldValue(number, kind, value)
		if size < 0 {
			return left
		}
		b = value[size:]
		fd := md.Fields().ByNumber(number)
		if fd == nil {
			left -= n + size // kept as it is
			continue
		}
		left = fieldRoom(value[:size], fd, kind, left, depth)
	}
	return left
}

// fieldRoom is room for one field's value, as it is on the wire.
func fieldRoom(value []byte, fd protoreflect.FieldDescriptor, kind protowire.Type, left, depth int) int {
	left -= valueSize
	if kind != protowire.BytesType {
		return left
	}
	data, _ := protowire.ConsumeBytes(value)
	if fd.IsMap() {
		left -= mapSize
	}
	switch {
	case fd.Message() != nil:
		return room(data, fd.Message(), left, depth+1)
	case fd.Kind() == protoreflect.BytesKind || fd.Kind() == protoreflect.StringKind:
		return left - len(data)
	}
	return left - 8*len(data) // packed: at most a number for each byte
}
