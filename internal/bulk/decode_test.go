package bulk

import (
	"bytes"
	"runtime"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestUnmarshalIsBounded decodes the messages of which the fewest bytes become the
// most memory.
func TestUnmarshalIsBounded(t *testing.T) {
	const longest = 4 << 20
	nested := func(inner []byte, fields ...protowire.Number) []byte {
		for _, f := range fields {
			inner = protowire.AppendBytes(protowire.AppendTag(nil, f, protowire.BytesType), inner)
		}
		return inner
	}
	field := func(n protowire.Number) []byte { return nested(nil, n) }
	for name, tt := range map[string]struct {
		unit []byte
		in   proto.Message
		wrap []protowire.Number
	}{
		"empty files":         {field(1), &guestv1.ListResponse{}, nil},
		"empty processes":     {field(1), &guestv1.ListProcessesResponse{}, nil},
		"empty sessions":      {field(1), &guestv1.ListSessionsResponse{}, nil},
		"empty entries":       {field(1), &guestv1.UploadRequest{}, []protowire.Number{3}},
		"empty arguments":     {field(4), &guestv1.ListSessionsResponse{}, []protowire.Number{1}},
		"the same field over": {nested(field(8), 3), &guestv1.UploadRequest{}, nil},
		"unknown fields":      {field(1000), &guestv1.ListResponse{}, nil},
		"one long text":       {bytes.Repeat([]byte("x"), 1000), &guestv1.UploadRequest{}, []protowire.Number{3, 7}},
	} {
		t.Run(name, func(t *testing.T) {
			raw := nested(bytes.Repeat(tt.unit, longest/len(tt.unit)), tt.wrap...)
			before := allocated()
			err := Unmarshal(raw, tt.in)
			// Lists double as they grow.
			if took := allocated() - before; took > 3*MaxDecoded {
				t.Errorf("%d MiB for a message of %d MiB (%v)", took>>20, len(raw)>>20, err)
			}
		})
	}
}

// TestUnmarshalTakesWhatIsSent: what agents send is far from the bound.
func TestUnmarshalTakesWhatIsSent(t *testing.T) {
	sessions := &guestv1.ListSessionsResponse{}
	for range 5000 {
		sessions.Sessions = append(sessions.Sessions, &guestv1.SessionInfo{SessionId: make([]byte, 16), Name: "build", Exit: &guestv1.Exit{Code: proto.Uint32(1)},
			Args: [][]byte{[]byte("sh"), []byte("-c"), bytes.Repeat([]byte("x"), 500)}})
	}
	entries := &guestv1.Entries{}
	for range 256 {
		entries.Entries = append(entries.Entries, &guestv1.Entry{Path: []byte("a/b/c"), Contents: make([]byte, 512), Sha256: make([]byte, 32),
			Xattrs: []*guestv1.TransferXattr{{Name: []byte("user.a"), Value: make([]byte, 3000)}}})
	}
	for _, m := range []proto.Message{sessions, entries} {
		raw, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := m.ProtoReflect().New().Interface()
		if err := Unmarshal(raw, got); err != nil || !proto.Equal(got, m) {
			t.Errorf("%T of %d bytes: %v", m, len(raw), err)
		}
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0x0a, 0}, 100))
	f.Add([]byte{0x0a, 2, 0x0a, 0, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := new(guestv1.UploadRequest)
		room(raw, m.ProtoReflect().Descriptor(), MaxDecoded, 0)
		want := proto.Unmarshal(raw, new(guestv1.UploadRequest))
		if err := Unmarshal(raw, m); (err == nil) != (want == nil) && len(raw) < leastChecked {
			t.Errorf("%v, want %v", err, want)
		}
	})
}
