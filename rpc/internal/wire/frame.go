package wire

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A frame is a header of 12 bytes and a payload:
//
//	0      4     5      6        8            12
//	| length | type | flags | method | stream id | payload …
//
// All numbers are big-endian. length counts the payload only.
const (
	HeaderLen = 12
	// MaxPayload bounds the payload of a frame: 64 KiB of message, the size of a
	// vsock packet, and room for what goes with it.
	MaxPayload = 64<<10 + 1<<10
	// maxControl bounds the payload of the types that carry no message and no head.
	maxControl = 1 << 10
	// MaxHead bounds the head of a frame.
	MaxHead = 62 << 10
)

// FrameType is the type of a frame. Types from 0x80 on may be ignored by a side that
// does not know them; below that an unknown type ends the connection.
type FrameType uint8

const (
	FrameHello  FrameType = 1 // both, first: what a side says about itself
	FrameOpen   FrameType = 2 // client: begins a stream
	FrameHeader FrameType = 3 // server: metadata before the first message
	FrameData   FrameType = 4 // both: a message or a piece of one
	FrameEnd    FrameType = 5 // server: status and trailer, ends the stream
	FrameReset  FrameType = 6 // both: ends the stream at once
	FrameCredit FrameType = 7 // both: more bytes may be sent
	FramePing   FrameType = 8 // both: asks for a sign of life
	FrameGoAway FrameType = 9 // both: no new streams

	frameIgnorable FrameType = 0x80
)

func (t FrameType) String() string {
	switch t {
	case FrameHello:
		return "HELLO"
	case FrameOpen:
		return "OPEN"
	case FrameHeader:
		return "HEADER"
	case FrameData:
		return "DATA"
	case FrameEnd:
		return "END"
	case FrameReset:
		return "RESET"
	case FrameCredit:
		return "CREDIT"
	case FramePing:
		return "PING"
	case FrameGoAway:
		return "GOAWAY"
	}
	return fmt.Sprintf("frame type %#02x", uint8(t))
}

// Flags of OPEN, HEADER, DATA and END. The low half of the byte must be
// understood, the high half may be ignored.
const (
	FlagHead  = 0x01 // the payload begins with a head
	FlagMsg   = 0x02 // the rest of the payload is a message, or a piece of one
	FlagMore  = 0x04 // the message goes on in the next DATA frame
	FlagClose = 0x08 // the sender sends nothing more on this stream

	FlagAck = 0x01 // PING: this is the answer

	flagsCritical = 0x0f
)

// Header is the header of a frame.
type Header struct {
	Length uint32
	Type   FrameType
	Flags  uint8
	Method uint16
	Stream uint32
}

// AppendHeader appends the 12 bytes of h.
func AppendHeader(b []byte, h Header) []byte {
	return append(b,
		byte(h.Length>>24), byte(h.Length>>16), byte(h.Length>>8), byte(h.Length),
		byte(h.Type), h.Flags, byte(h.Method>>8), byte(h.Method),
		byte(h.Stream>>24), byte(h.Stream>>16), byte(h.Stream>>8), byte(h.Stream))
}

// ParseHeader reads the first 12 bytes of b.
func ParseHeader(b []byte) Header {
	_ = b[HeaderLen-1]
	return Header{
		Length: binary.BigEndian.Uint32(b),
		Type:   FrameType(b[4]),
		Flags:  b[5],
		Method: binary.BigEndian.Uint16(b[6:]),
		Stream: binary.BigEndian.Uint32(b[8:]),
	}
}

// Check returns an error if no frame may have this header, whatever came before.
func (h Header) Check() error {
	limit, flags := uint32(MaxPayload), uint8(flagsCritical)
	onStream := true
	switch h.Type {
	case FrameOpen, FrameData:
	case FrameHeader:
		flags = FlagHead
	case FrameEnd:
		flags = FlagHead | FlagMsg
	case FrameHello:
		limit, flags, onStream = maxControl, 0, false
	case FramePing:
		limit, flags, onStream = 8, FlagAck, false
		if h.Length != 8 {
			return Errorf(CodeFrameSize, "PING of %d bytes, want 8", h.Length)
		}
	case FrameGoAway:
		limit, flags, onStream = maxControl, 0, false
		if h.Length < 8 {
			return Errorf(CodeFrameSize, "GOAWAY of %d bytes, want 8 or more", h.Length)
		}
	case FrameReset:
		limit, flags = maxControl, 0
		if h.Length < 4 {
			return Errorf(CodeFrameSize, "RESET of %d bytes, want 4 or more", h.Length)
		}
	case FrameCredit:
		limit, flags = 4, 0
		if h.Length != 4 {
			return Errorf(CodeFrameSize, "CREDIT of %d bytes, want 4", h.Length)
		}
		onStream = h.Stream != 0
	default:
		if h.Type < frameIgnorable {
			return Errorf(CodeProtocol, "%v is not known", h.Type)
		}
		flags, onStream = flagsCritical, h.Stream != 0
	}
	switch {
	case h.Length > limit:
		return Errorf(CodeFrameSize, "%v of %d bytes, more than %d", h.Type, h.Length, limit)
	case h.Flags&flagsCritical&^flags != 0:
		return Errorf(CodeProtocol, "%v with flags %#02x", h.Type, h.Flags)
	case onStream != (h.Stream != 0):
		return Errorf(CodeProtocol, "%v on stream %d", h.Type, h.Stream)
	case h.Flags&(FlagMsg|FlagMore) == FlagMore && h.Type < frameIgnorable:
		return Errorf(CodeProtocol, "%v with a message to go on but none", h.Type)
	}
	return nil
}

func AppendCredit(b []byte, stream uint32, n uint32) []byte {
	b = AppendHeader(b, Header{Length: 4, Type: FrameCredit, Stream: stream})
	return binary.BigEndian.AppendUint32(b, n)
}

func AppendReset(b []byte, stream uint32, code Code, text string) []byte {
	text = Clip(text, maxControl-4)
	b = AppendHeader(b, Header{Length: uint32(4 + len(text)), Type: FrameReset, Stream: stream})
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, text...)
}

func AppendPing(b []byte, flags uint8, data [8]byte) []byte {
	b = AppendHeader(b, Header{Length: 8, Type: FramePing, Flags: flags})
	return append(b, data[:]...)
}

func AppendGoAway(b []byte, last uint32, code Code, text string) []byte {
	text = Clip(text, maxControl-8)
	b = AppendHeader(b, Header{Length: uint32(8 + len(text)), Type: FrameGoAway})
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, text...)
}

// Clip returns s as text for the wire, of at most n bytes: valid UTF-8, and cut at a
// character.
func Clip(s string, n int) string {
	if !utf8.ValidString(s) {
		s = ValidText(s)
	}
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ValidText returns s with what is not UTF-8 replaced. Texts of the peer go through it
// too: a gRPC status cannot be passed on otherwise.
func ValidText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
