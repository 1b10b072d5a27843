package rpc

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
	headerLen = 12
	// maxPayload bounds the payload of a frame: 64 KiB of message, the size of a
	// vsock packet, and room for what goes with it.
	maxPayload = 64<<10 + 1<<10
	// maxControl bounds the payload of the types that carry no message and no head.
	maxControl = 1 << 10
	// maxHead bounds the head of a frame.
	maxHead = 62 << 10
)

// frameType is the type of a frame. Types from 0x80 on may be ignored by who
// does not know them; below that an unknown type ends the connection.
type frameType uint8

const (
	frameHello  frameType = 1 // both, first: what a side says about itself
	frameOpen   frameType = 2 // client: begins a stream
	frameHeader frameType = 3 // server: metadata before the first message
	frameData   frameType = 4 // both: a message or a piece of one
	frameEnd    frameType = 5 // server: status and trailer, ends the stream
	frameReset  frameType = 6 // both: ends the stream at once
	frameCredit frameType = 7 // both: more bytes may be sent
	framePing   frameType = 8 // both: asks for a sign of life
	frameGoAway frameType = 9 // both: no new streams

	frameIgnorable frameType = 0x80
)

func (t frameType) String() string {
	switch t {
	case frameHello:
		return "HELLO"
	case frameOpen:
		return "OPEN"
	case frameHeader:
		return "HEADER"
	case frameData:
		return "DATA"
	case frameEnd:
		return "END"
	case frameReset:
		return "RESET"
	case frameCredit:
		return "CREDIT"
	case framePing:
		return "PING"
	case frameGoAway:
		return "GOAWAY"
	}
	return fmt.Sprintf("frame type %#02x", uint8(t))
}

// Flags of OPEN, HEADER, DATA and END. The low half of the byte must be
// understood, the high half may be ignored.
const (
	flagHead  = 0x01 // the payload begins with a head
	flagMsg   = 0x02 // the rest of the payload is a message, or a piece of one
	flagMore  = 0x04 // the message goes on in the next DATA frame
	flagClose = 0x08 // the sender sends nothing more on this stream

	flagAck = 0x01 // PING: this is the answer

	flagsCritical = 0x0f
)

// header is the header of a frame.
type header struct {
	length uint32
	typ    frameType
	flags  uint8
	method uint16
	stream uint32
}

// appendHeader appends the 12 bytes of h.
func appendHeader(b []byte, h header) []byte {
	return append(b,
		byte(h.length>>24), byte(h.length>>16), byte(h.length>>8), byte(h.length),
		byte(h.typ), h.flags, byte(h.method>>8), byte(h.method),
		byte(h.stream>>24), byte(h.stream>>16), byte(h.stream>>8), byte(h.stream))
}

// parseHeader reads the first 12 bytes of b.
func parseHeader(b []byte) header {
	_ = b[headerLen-1]
	return header{
		length: binary.BigEndian.Uint32(b),
		typ:    frameType(b[4]),
		flags:  b[5],
		method: binary.BigEndian.Uint16(b[6:]),
		stream: binary.BigEndian.Uint32(b[8:]),
	}
}

// check returns an error if no frame may have this header, whatever came before.
func (h header) check() error {
	limit, flags := uint32(maxPayload), uint8(flagsCritical)
	onStream := true
	switch h.typ {
	case frameOpen, frameData:
	case frameHeader:
		flags = flagHead
	case frameEnd:
		flags = flagHead | flagMsg
	case frameHello:
		limit, flags, onStream = maxControl, 0, false
	case framePing:
		limit, flags, onStream = 8, flagAck, false
		if h.length != 8 {
			return connErrorf(codeFrameSize, "PING of %d bytes, want 8", h.length)
		}
	case frameGoAway:
		limit, flags, onStream = maxControl, 0, false
		if h.length < 8 {
			return connErrorf(codeFrameSize, "GOAWAY of %d bytes, want 8 or more", h.length)
		}
	case frameReset:
		limit, flags = maxControl, 0
		if h.length < 4 {
			return connErrorf(codeFrameSize, "RESET of %d bytes, want 4 or more", h.length)
		}
	case frameCredit:
		limit, flags = 4, 0
		if h.length != 4 {
			return connErrorf(codeFrameSize, "CREDIT of %d bytes, want 4", h.length)
		}
		onStream = h.stream != 0
	default:
		if h.typ < frameIgnorable {
			return connErrorf(codeProtocol, "%v is not known", h.typ)
		}
		flags, onStream = flagsCritical, h.stream != 0
	}
	switch {
	case h.length > limit:
		return connErrorf(codeFrameSize, "%v of %d bytes, more than %d", h.typ, h.length, limit)
	case h.flags&flagsCritical&^flags != 0:
		return connErrorf(codeProtocol, "%v with flags %#02x", h.typ, h.flags)
	case onStream != (h.stream != 0):
		return connErrorf(codeProtocol, "%v on stream %d", h.typ, h.stream)
	case h.flags&(flagMsg|flagMore) == flagMore && h.typ < frameIgnorable:
		return connErrorf(codeProtocol, "%v with a message to go on but none", h.typ)
	}
	return nil
}

func appendCredit(b []byte, stream uint32, n uint32) []byte {
	b = appendHeader(b, header{length: 4, typ: frameCredit, stream: stream})
	return binary.BigEndian.AppendUint32(b, n)
}

func appendReset(b []byte, stream uint32, code wireCode, text string) []byte {
	text = clip(text, maxControl-4)
	b = appendHeader(b, header{length: uint32(4 + len(text)), typ: frameReset, stream: stream})
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, text...)
}

func appendPing(b []byte, flags uint8, data [8]byte) []byte {
	b = appendHeader(b, header{length: 8, typ: framePing, flags: flags})
	return append(b, data[:]...)
}

func appendGoAway(b []byte, last uint32, code wireCode, text string) []byte {
	text = clip(text, maxControl-8)
	b = appendHeader(b, header{length: uint32(8 + len(text)), typ: frameGoAway})
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, text...)
}

// clip returns s as text for the wire, of at most n bytes: valid UTF-8, and cut at a
// character.
func clip(s string, n int) string {
	if !utf8.ValidString(s) {
		s = validText(s)
	}
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// validText returns s with what is not UTF-8 replaced. Texts of the peer go through it
// too: a gRPC status cannot be passed on otherwise.
func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
