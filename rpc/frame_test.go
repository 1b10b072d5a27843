package rpc

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"
)

func TestHeaderRoundTrip(t *testing.T) {
	h := header{length: 0x01020304, typ: 5, flags: 6, method: 0x0708, stream: 0x090a0b0c}
	b := appendHeader(nil, h)
	if diff := cmp.Diff([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, b); diff != "" {
		t.Error(diff)
	}
	if got := parseHeader(b); got != h {
		t.Errorf("got %+v, want %+v", got, h)
	}
}

func TestHeaderCheck(t *testing.T) {
	for _, tc := range []struct {
		name string
		h    header
		want wireCode // codeNone: fine
	}{
		{"open", header{typ: frameOpen, stream: 1, flags: flagHead | flagMsg | flagClose, length: maxPayload}, codeNone},
		{"open on 0", header{typ: frameOpen}, codeProtocol},
		{"data too long", header{typ: frameData, stream: 1, length: maxPayload + 1}, codeFrameSize},
		{"more of nothing", header{typ: frameData, stream: 1, flags: flagMore}, codeProtocol},
		{"end that goes on", header{typ: frameEnd, stream: 1, flags: flagMsg | flagMore}, codeProtocol},
		{"ignorable flags", header{typ: frameData, stream: 1, flags: 0xf0 | flagMsg}, codeNone},
		{"header with a message", header{typ: frameHeader, stream: 1, flags: flagMsg}, codeProtocol},
		{"ping", header{typ: framePing, length: 8}, codeNone},
		{"ping on a stream", header{typ: framePing, length: 8, stream: 1}, codeProtocol},
		{"short ping", header{typ: framePing, length: 7}, codeFrameSize},
		{"credit for the connection", header{typ: frameCredit, length: 4}, codeNone},
		{"credit for a stream", header{typ: frameCredit, length: 4, stream: 9}, codeNone},
		{"long credit", header{typ: frameCredit, length: 5}, codeFrameSize},
		{"short reset", header{typ: frameReset, stream: 1, length: 3}, codeFrameSize},
		{"long reset", header{typ: frameReset, stream: 1, length: maxControl + 1}, codeFrameSize},
		{"short goaway", header{typ: frameGoAway, length: 7}, codeFrameSize},
		{"type 0", header{}, codeProtocol},
		{"unknown", header{typ: 0x7f, stream: 1}, codeProtocol},
		{"ignorable", header{typ: 0x80, length: maxPayload}, codeNone},
		{"ignorable too long", header{typ: 0x80, length: maxPayload + 1}, codeFrameSize},
	} {
		err := tc.h.check()
		var ce *connError
		if errors.As(err, &ce); err != nil && ce.code != tc.want || err == nil && tc.want != codeNone {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestMetadataRoundTrip(t *testing.T) {
	md := metadata.Pairs("a", "1", "a", "2", "b-bin", "\x00\xff", "c", "")
	got, err := parseMetadata(appendMetadata(nil, md))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(md, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []metadata.MD{{"": {"x"}}, {":path": {"x"}}, {"Upper": {"x"}}, {"k": {"\n"}}, {"k": {"ü"}}, {"sp ace": {"x"}}} {
		if _, err := parseMetadata(appendMetadata(nil, bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
		if checkMetadata(bad) == "" {
			t.Errorf("%q may be sent", bad)
		}
	}
}

func TestHelloRoundTrip(t *testing.T) {
	want := hello{
		info:         HelloInfo{Software: "agent/1", BootID: "b", Generation: "g"},
		streamWindow: 1 << 20, connWindow: 1 << 24, maxStreams: 7, maxHeader: 100, authority: "a", userAgent: "u",
	}
	b := appendPreface(nil, want)
	if !bytes.HasPrefix(b, []byte(magic)) {
		t.Fatalf("no magic in %q", b)
	}
	b = b[len(magic):]
	h := parseHeader(b)
	if err := h.check(); err != nil || int(h.length) != len(b)-headerLen {
		t.Fatalf("header %+v: %v", h, err)
	}
	got, err := parseHello(b[headerLen:])
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func FuzzFrameHeader(f *testing.F) {
	f.Add(appendHeader(nil, header{typ: frameData, stream: 1, flags: flagMsg, length: 3}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerLen {
			return
		}
		h := parseHeader(b)
		if !bytes.Equal(appendHeader(nil, h), b[:headerLen]) {
			t.Errorf("%+v is not what %x says", h, b[:headerLen])
		}
		if err := h.check(); err == nil && h.length > maxPayload {
			t.Errorf("%+v was accepted", h)
		}
	})
}

func FuzzFrameHead(f *testing.F) {
	f.Add(appendMetadataItem(appendItem(nil, tagMethod, "/a/B"), tagMetadata, metadata.Pairs("k", "v")))
	f.Add(appendUintItem(appendItem(nil, tagMessage, "no"), tagCode, 5))
	f.Add(appendUintItem(nil, tagLength, 1<<40))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseOpen(b)
		if err == nil && o.md != nil {
			if bad := checkMetadata(o.md); bad != "" {
				t.Errorf("metadata %q was accepted: %s", o.md, bad)
			}
		}
		if e, err := parseEnd(b); err == nil {
			_ = e.err()
		}
		if n, ok, err := messageLength(b); ok && err != nil {
			t.Errorf("length %d with %v", n, err)
		}
	})
}

func FuzzFrameHello(f *testing.F) {
	f.Add(appendPreface(nil, hello{streamWindow: 1 << 20, connWindow: 1 << 20})[len(magic)+headerLen:])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err == nil && (h.streamWindow < initialStreamWindow || h.connWindow > maxWindow) {
			t.Errorf("%+v was accepted", h)
		}
	})
}
