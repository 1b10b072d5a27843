package hostile

import "encoding/binary"

// Frame types and flags of HTTP/2 (RFC 9113, section 6).
const (
	h2Data         = 0
	h2Headers      = 1
	h2Reset        = 3
	h2Settings     = 4
	h2Ping         = 6
	h2WindowUpdate = 8
	h2Continuation = 9

	endStream  = 0x1
	endHeaders = 0x4
)

// h2Preface is what a client of HTTP/2 sends first.
const h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// h2Greeting is that and empty SETTINGS.
var h2Greeting = append([]byte(h2Preface), h2Frame(h2Settings, 0, 0, nil)...)

// h2Frame is one frame.
func h2Frame(typ, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), typ, flags}
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, payload...)
}

// h2Fields is a block of header fields, each literal and not indexed (RFC 7541,
// section 6.2.2), shorter than 127 bytes each.
func h2Fields(pairs ...string) []byte {
	var b []byte
	for i := 0; i < len(pairs); i += 2 {
		b = append(b, 0)
		for _, s := range pairs[i : i+2] {
			b = append(append(b, byte(len(s))), s...)
		}
	}
	return b
}

// h2Call is HEADERS of a call of a method.
func h2Call(stream uint32, method string, flags byte) []byte {
	return h2Frame(h2Headers, endHeaders|flags, stream, h2Fields(":method", "POST", ":scheme", "http", ":path", method,
		":authority", "localhost", "content-type", "application/grpc", "te", "trailers"))
}
