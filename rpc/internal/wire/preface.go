package wire

import (
	"encoding/binary"
)

// Magic begins a connection in both directions; a HELLO frame follows it. Its
// empty line makes an HTTP/1 server answer at once, its length is enough for an
// HTTP/2 server to see that it is not its preface, and no text protocol can echo
// its last two bytes by chance.
const Magic = "VSOCKRPC/1\r\n\r\n\x00\xff"

// AnyMagic is how the magic of every version begins. All are of the same length.
const AnyMagic = "VSOCKRPC/"

// Items of a HELLO, in the form of a head.
const (
	helloMinor        = 1 // uvarint: the minor version the side speaks; absent means 0
	helloSoftware     = 2
	helloBootID       = 3
	helloGeneration   = 4
	helloStreamWindow = 5  // uvarint: initial window of each stream, for the peer's sending
	helloConnWindow   = 6  // uvarint: the same for the connection
	helloMaxStreams   = 7  // server, uvarint: streams a client may have open
	helloMaxHeader    = 8  // uvarint: bytes of metadata the side takes in one direction of a call
	helloAuthority    = 9  // client: what :authority is where an OPEN does not say
	helloUserAgent    = 10 // client
)

// Bytes of the texts that a side says about itself; more is cut off.
const (
	maxSoftware  = 128
	maxBootID    = 64 // and of a generation
	MaxAuthority = 255
	maxUserAgent = 128
)

// Info is what a side says about itself.
type Info struct{ Software, BootID, Generation string }

// Hello is what a side says when a connection begins.
type Hello struct {
	Info         Info
	StreamWindow int
	ConnWindow   int
	MaxStreams   uint32 // 0: not said
	MaxHeader    int    // 0: not said
	Authority    string // client
	UserAgent    string // client
}

// InitialMaxStreams is how many streams a client opens before it knows how many
// it may; a server that allows fewer lets the others wait.
const InitialMaxStreams = 100

// AppendPreface appends magic and the HELLO frame.
func AppendPreface(b []byte, h Hello) []byte {
	b = append(b, Magic...)
	start := len(b)
	b = AppendHeader(b, Header{Type: FrameHello})
	for _, it := range []struct {
		tag byte
		v   string
	}{
		{helloSoftware, Clip(h.Info.Software, maxSoftware)},
		{helloBootID, Clip(h.Info.BootID, maxBootID)},
		{helloGeneration, Clip(h.Info.Generation, maxBootID)},
		{helloAuthority, Clip(h.Authority, MaxAuthority)},
		{helloUserAgent, Clip(h.UserAgent, maxUserAgent)},
	} {
		if it.v != "" {
			b = AppendItem(b, it.tag, it.v)
		}
	}
	for _, it := range []struct {
		tag     byte
		v, dflt uint64
	}{
		{helloStreamWindow, uint64(h.StreamWindow), InitialStreamWindow},
		{helloConnWindow, uint64(h.ConnWindow), InitialConnWindow},
		{helloMaxStreams, uint64(h.MaxStreams), 0},
		{helloMaxHeader, uint64(h.MaxHeader), 0},
	} {
		if it.v != it.dflt {
			b = AppendUintItem(b, it.tag, it.v)
		}
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-HeaderLen))
	return b
}

// ParseHello reads the payload of a HELLO frame.
func ParseHello(p []byte) (Hello, error) {
	h := Hello{StreamWindow: InitialStreamWindow, ConnWindow: InitialConnWindow}
	for len(p) > 0 {
		tag, v, rest, err := NextItem(p)
		if err != nil {
			return h, err
		}
		p = rest
		var n uint64
		if tag >= helloStreamWindow && tag <= helloMaxHeader {
			if n, err = uintItem(v); err != nil {
				return h, err
			}
			if n > MaxWindow {
				return h, Errorf(CodeProtocol, "HELLO with %d for item %d", n, tag)
			}
		}
		switch tag {
		case helloSoftware:
			h.Info.Software = Clip(string(v), maxSoftware)
		case helloBootID:
			h.Info.BootID = Clip(string(v), maxBootID)
		case helloGeneration:
			h.Info.Generation = Clip(string(v), maxBootID)
		case helloAuthority:
			h.Authority = Clip(string(v), MaxAuthority)
		case helloUserAgent:
			h.UserAgent = Clip(string(v), maxUserAgent)
		case helloStreamWindow:
			h.StreamWindow = int(n)
		case helloConnWindow:
			h.ConnWindow = int(n)
		case helloMaxStreams:
			h.MaxStreams = uint32(n)
		case helloMaxHeader:
			h.MaxHeader = int(n)
		}
	}
	if h.StreamWindow < InitialStreamWindow || h.ConnWindow < InitialConnWindow {
		return h, Errorf(CodeFlowControl, "HELLO with windows of %d and %d bytes, less than the initial ones", h.StreamWindow, h.ConnWindow)
	}
	return h, nil
}
