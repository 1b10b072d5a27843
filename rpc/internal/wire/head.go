package wire

import (
	"encoding/binary"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
)

// A head is a list of items, each a tag byte, a uvarint length and a value.
// Tags that are not known are skipped.
const (
	TagMethod    = 1  // "/package.Service/Method"
	TagTimeout   = 2  // uvarint, nanoseconds from when the frame was sent
	TagMetadata  = 3  // OPEN: of the request; HEADER, END: before the first message
	TagTrailer   = 4  // END: metadata after the last message
	TagCode      = 5  // END: uvarint, a gRPC status code; absent means OK
	TagMessage   = 6  // END: the text of the status
	TagDetails   = 7  // END: google.rpc.Status, if the status has details
	TagCodec     = 8  // OPEN: the content subtype, if it is not "proto"
	TagAuthority = 9  // OPEN
	TagLength    = 10 // uvarint: bytes of the whole message, if FlagMore is set
)

func AppendItem(b []byte, tag byte, v string) []byte {
	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

func AppendUintItem(b []byte, tag byte, v uint64) []byte {
	var a [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(a[:], v)
	b = append(b, tag, byte(n))
	return append(b, a[:n]...)
}

// NextItem splits the first item off b.
func NextItem(b []byte) (tag byte, v, rest []byte, err error) {
	tag = b[0]
	n, w := binary.Uvarint(b[1:])
	if w <= 0 || n > uint64(len(b)-1-w) {
		return 0, nil, nil, Errorf(CodeProtocol, "a head ends within an item")
	}
	b = b[1+w:]
	return tag, b[:n], b[n:], nil
}

func uintItem(v []byte) (uint64, error) {
	n, w := binary.Uvarint(v)
	if w <= 0 || w != len(v) {
		return 0, Errorf(CodeProtocol, "a number in a head is malformed")
	}
	return n, nil
}

// SplitHead splits the payload of a frame into its head and its message.
func SplitHead(h Header, p []byte) (head, msg []byte, err error) {
	if h.Flags&FlagHead == 0 {
		return nil, p, nil
	}
	n, w := binary.Uvarint(p)
	if w <= 0 || n > MaxHead || n > uint64(len(p)-w) {
		return nil, nil, Errorf(CodeProtocol, "%v with a head beyond its payload", h.Type)
	}
	return p[w : w+int(n)], p[w+int(n):], nil
}

// MessageLength finds the length of the whole message in the head of its first
// frame.
func MessageLength(head []byte) (n uint64, ok bool, err error) {
	for len(head) > 0 {
		var tag byte
		var v []byte
		if tag, v, head, err = NextItem(head); err != nil {
			return 0, false, err
		}
		if tag == TagLength {
			if n, err = uintItem(v); err != nil {
				return 0, false, err
			}
			ok = true
		}
	}
	return n, ok, nil
}

// appendMetadata appends md as the value of an item: for each pair the key and
// the value, each after its length as a uvarint.
func appendMetadata(b []byte, md metadata.MD) []byte {
	for k, vs := range md {
		for _, v := range vs {
			b = appendPair(b, k, v)
		}
	}
	return b
}

func appendPair(b []byte, k, v string) []byte {
	b = binary.AppendUvarint(b, uint64(len(k)))
	b = append(b, k...)
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// AppendMetadataItem appends md as an item, if there is anything in it.
func AppendMetadataItem(b []byte, tag byte, md metadata.MD) []byte {
	if len(md) == 0 {
		return b
	}
	return AppendItem(b, tag, string(appendMetadata(nil, md)))
}

// parseMetadata reads what appendMetadata wrote and checks it.
func parseMetadata(p []byte) (metadata.MD, error) {
	md := metadata.MD{}
	for len(p) > 0 {
		var k, v string
		var ok bool
		if k, p, ok = cutString(p); ok {
			v, p, ok = cutString(p)
		}
		if !ok {
			return nil, Errorf(CodeProtocol, "metadata ends within a pair")
		}
		if err := checkPair(k, v); err != "" {
			return nil, Errorf(CodeProtocol, "%s", err)
		}
		md[k] = append(md[k], v)
	}
	return md, nil
}

func cutString(p []byte) (string, []byte, bool) {
	n, w := binary.Uvarint(p)
	if w <= 0 || n > uint64(len(p)-w) {
		return "", nil, false
	}
	return string(p[w : w+int(n)]), p[w+int(n):], true
}

// CheckMetadata returns what is wrong with md as metadata to send, or "".
func CheckMetadata(md metadata.MD) string {
	for k, vs := range md {
		for _, v := range vs {
			if err := checkPair(k, v); err != "" {
				return err
			}
		}
	}
	return ""
}

// checkPair applies gRPC's rules: keys of lower-case letters, digits and ".-_",
// values of printable ASCII, or anything if the key ends in -bin.
func checkPair(k, v string) string {
	if k == "" || k[0] == ':' {
		return "a metadata key is empty or begins with a colon"
	}
	for i := range len(k) {
		c := k[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return "a metadata key has a character outside a-z, 0-9 and .-_"
		}
	}
	if strings.HasSuffix(k, "-bin") {
		return ""
	}
	for i := range len(v) {
		if v[i] < 0x20 || v[i] > 0x7e {
			return "the value of metadata key " + k + " is not printable ASCII"
		}
	}
	return ""
}

// MetadataSize is what MaxHeaderBytes counts: as in HTTP/2, key, value and 32
// bytes for each pair.
func MetadataSize(md metadata.MD) int {
	n := 0
	for k, vs := range md {
		for _, v := range vs {
			n += len(k) + len(v) + 32
		}
	}
	return n
}

// maxTimeout keeps a timeout from the wire within what time.Duration can add to
// a clock.
const maxTimeout = 100 * 365 * 24 * time.Hour

func timeoutOf(ns uint64) time.Duration {
	return time.Duration(min(ns, uint64(maxTimeout)))
}
