package rpc

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// magic begins a connection in both directions; a HELLO frame follows it. Its
// empty line makes an HTTP/1 server answer at once, its length is enough for an
// HTTP/2 server to see that it is not its preface, and no text protocol can echo
// its last two bytes by chance.
const magic = "VSOCKRPC/1\r\n\r\n\x00\xff"

// anyMagic is how the magic of every version begins. All are of the same length.
const anyMagic = "VSOCKRPC/"

// http2Preface is what an HTTP/2 client sends first.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// alpn is the name of the native wire under TLS.
const alpn = "vsockrpc/1"

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
	maxAuthority = 255
	maxUserAgent = 128
)

// hello is what a side says when a connection begins.
type hello struct {
	info         HelloInfo
	streamWindow int
	connWindow   int
	maxStreams   uint32 // 0: not said
	maxHeader    int    // 0: not said
	authority    string // client
	userAgent    string // client
}

// initialMaxStreams is how many streams a client opens before it knows how many
// it may; a server that allows fewer lets the others wait.
const initialMaxStreams = 100

// appendPreface appends magic and the HELLO frame.
func appendPreface(b []byte, h hello) []byte {
	b = append(b, magic...)
	start := len(b)
	b = appendHeader(b, header{typ: frameHello})
	for _, it := range []struct {
		tag byte
		v   string
	}{
		{helloSoftware, clip(h.info.Software, maxSoftware)},
		{helloBootID, clip(h.info.BootID, maxBootID)},
		{helloGeneration, clip(h.info.Generation, maxBootID)},
		{helloAuthority, clip(h.authority, maxAuthority)},
		{helloUserAgent, clip(h.userAgent, maxUserAgent)},
	} {
		if it.v != "" {
			b = appendItem(b, it.tag, it.v)
		}
	}
	for _, it := range []struct {
		tag     byte
		v, dflt uint64
	}{
		{helloStreamWindow, uint64(h.streamWindow), initialStreamWindow},
		{helloConnWindow, uint64(h.connWindow), initialConnWindow},
		{helloMaxStreams, uint64(h.maxStreams), 0},
		{helloMaxHeader, uint64(h.maxHeader), 0},
	} {
		if it.v != it.dflt {
			b = appendUintItem(b, it.tag, it.v)
		}
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-headerLen))
	return b
}

// parseHello reads the payload of a HELLO frame.
func parseHello(p []byte) (hello, error) {
	h := hello{streamWindow: initialStreamWindow, connWindow: initialConnWindow}
	for len(p) > 0 {
		tag, v, rest, err := nextItem(p)
		if err != nil {
			return h, err
		}
		p = rest
		var n uint64
		if tag >= helloStreamWindow && tag <= helloMaxHeader {
			if n, err = uintItem(v); err != nil {
				return h, err
			}
			if n > maxWindow {
				return h, connErrorf(codeProtocol, "HELLO with %d for item %d", n, tag)
			}
		}
		switch tag {
		case helloSoftware:
			h.info.Software = clip(string(v), maxSoftware)
		case helloBootID:
			h.info.BootID = clip(string(v), maxBootID)
		case helloGeneration:
			h.info.Generation = clip(string(v), maxBootID)
		case helloAuthority:
			h.authority = clip(string(v), maxAuthority)
		case helloUserAgent:
			h.userAgent = clip(string(v), maxUserAgent)
		case helloStreamWindow:
			h.streamWindow = int(n)
		case helloConnWindow:
			h.connWindow = int(n)
		case helloMaxStreams:
			h.maxStreams = uint32(n)
		case helloMaxHeader:
			h.maxHeader = int(n)
		}
	}
	if h.streamWindow < initialStreamWindow || h.connWindow < initialConnWindow {
		return h, connErrorf(codeFlowControl, "HELLO with windows of %d and %d bytes, less than the initial ones", h.streamWindow, h.connWindow)
	}
	return h, nil
}

// explainPeer says what a peer that sent b first, instead of magic, seems to be,
// and what to do.
func explainPeer(b []byte) string {
	switch {
	case len(b) >= 9 && b[0] == 0 && b[3] == 4 && bytes.Equal(b[5:9], []byte{0, 0, 0, 0}):
		return "the peer speaks HTTP/2, so it is a gRPC server without the native wire: use the wire \"grpc\", or a newer agent"
	case bytes.HasPrefix(b, []byte("HTTP/")):
		return "the peer is an HTTP/1 server, not an agent: check the address and port"
	case bytes.HasPrefix(b, []byte(anyMagic)):
		return "the peer speaks another version of the native wire: use the wire \"grpc\", or bring both sides to the same version"
	case bytes.HasPrefix(b, []byte("SSH-")):
		return "the peer is an SSH server, not an agent: check the address and port"
	case len(b) >= 3 && (b[0] == 0x15 || b[0] == 0x16) && b[1] == 3:
		return "the peer wants TLS: give the client keys"
	}
	return fmt.Sprintf("the peer's first bytes %q are of no protocol known here: check the address and port", b[:min(24, len(b))])
}
