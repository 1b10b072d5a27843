package wire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"
)

func TestHeaderRoundTrip(t *testing.T) {
	h := Header{Length: 0x01020304, Type: 5, Flags: 6, Method: 0x0708, Stream: 0x090a0b0c}
	b := AppendHeader(nil, h)
	if diff := cmp.Diff([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, b); diff != "" {
		t.Error(diff)
	}
	if got := ParseHeader(b); got != h {
		t.Errorf("got %+v, want %+v", got, h)
	}
}

func TestHeaderCheck(t *testing.T) {
	for _, tc := range []struct {
		name string
		h    Header
		want Code // CodeNone: fine
	}{
		{"open", Header{Type: FrameOpen, Stream: 1, Flags: FlagHead | FlagMsg | FlagClose, Length: MaxPayload}, CodeNone},
		{"open on 0", Header{Type: FrameOpen}, CodeProtocol},
		{"data too long", Header{Type: FrameData, Stream: 1, Length: MaxPayload + 1}, CodeFrameSize},
		{"more of nothing", Header{Type: FrameData, Stream: 1, Flags: FlagMore}, CodeProtocol},
		{"end that goes on", Header{Type: FrameEnd, Stream: 1, Flags: FlagMsg | FlagMore}, CodeProtocol},
		{"ignorable flags", Header{Type: FrameData, Stream: 1, Flags: 0xf0 | FlagMsg}, CodeNone},
		{"header with a message", Header{Type: FrameHeader, Stream: 1, Flags: FlagMsg}, CodeProtocol},
		{"ping", Header{Type: FramePing, Length: 8}, CodeNone},
		{"ping on a stream", Header{Type: FramePing, Length: 8, Stream: 1}, CodeProtocol},
		{"short ping", Header{Type: FramePing, Length: 7}, CodeFrameSize},
		{"credit for the connection", Header{Type: FrameCredit, Length: 4}, CodeNone},
		{"credit for a stream", Header{Type: FrameCredit, Length: 4, Stream: 9}, CodeNone},
		{"long credit", Header{Type: FrameCredit, Length: 5}, CodeFrameSize},
		{"short reset", Header{Type: FrameReset, Stream: 1, Length: 3}, CodeFrameSize},
		{"long reset", Header{Type: FrameReset, Stream: 1, Length: maxControl + 1}, CodeFrameSize},
		{"short goaway", Header{Type: FrameGoAway, Length: 7}, CodeFrameSize},
		{"type 0", Header{}, CodeProtocol},
		{"unknown", Header{Type: 0x7f, Stream: 1}, CodeProtocol},
		{"ignorable", Header{Type: 0x80, Length: MaxPayload}, CodeNone},
		{"ignorable too long", Header{Type: 0x80, Length: MaxPayload + 1}, CodeFrameSize},
	} {
		err := tc.h.Check()
		var ce *Error
		if errors.As(err, &ce); err != nil && ce.Code != tc.want || err == nil && tc.want != CodeNone {
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
		if CheckMetadata(bad) == "" {
			t.Errorf("%q may be sent", bad)
		}
	}
}

func TestHelloRoundTrip(t *testing.T) {
	want := Hello{
		Info:         Info{Software: "agent/1", BootID: "b", Generation: "g"},
		StreamWindow: 1 << 20, ConnWindow: 1 << 24, MaxStreams: 7, MaxHeader: 100, Authority: "a", UserAgent: "u",
	}
	b := AppendPreface(nil, want)
	if !bytes.HasPrefix(b, []byte(Magic)) {
		t.Fatalf("no magic in %q", b)
	}
	b = b[len(Magic):]
	h := ParseHeader(b)
	if err := h.Check(); err != nil || int(h.Length) != len(b)-HeaderLen {
		t.Fatalf("header %+v: %v", h, err)
	}
	got, err := ParseHello(b[HeaderLen:])
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func FuzzFrameHeader(f *testing.F) {
	f.Add(AppendHeader(nil, Header{Type: FrameData, Stream: 1, Flags: FlagMsg, Length: 3}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderLen {
			return
		}
		h := ParseHeader(b)
		if !bytes.Equal(AppendHeader(nil, h), b[:HeaderLen]) {
			t.Errorf("%+v is not what %x says", h, b[:HeaderLen])
		}
		if err := h.Check(); err == nil && h.Length > MaxPayload {
			t.Errorf("%+v was accepted", h)
		}
	})
}

func FuzzFrameHead(f *testing.F) {
	f.Add(AppendMetadataItem(AppendItem(nil, TagMethod, "/a/B"), TagMetadata, metadata.Pairs("k", "v")))
	f.Add(AppendUintItem(AppendItem(nil, TagMessage, "no"), TagCode, 5))
	f.Add(AppendUintItem(nil, TagLength, 1<<40))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseOpen(b)
		if err == nil && o.Md != nil {
			if bad := CheckMetadata(o.Md); bad != "" {
				t.Errorf("metadata %q was accepted: %s", o.Md, bad)
			}
		}
		if e, err := ParseEnd(b); err == nil {
			_ = e.Err()
		}
		if n, ok, err := MessageLength(b); ok && err != nil {
			t.Errorf("length %d with %v", n, err)
		}
	})
}

func FuzzFrameHello(f *testing.F) {
	f.Add(AppendPreface(nil, Hello{StreamWindow: 1 << 20, ConnWindow: 1 << 20})[len(Magic)+HeaderLen:])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHello(b)
		if err == nil && (h.StreamWindow < InitialStreamWindow || h.ConnWindow > MaxWindow) {
			t.Errorf("%+v was accepted", h)
		}
	})
}
