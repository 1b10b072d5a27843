package guest

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// decode decodes as the connection does, and returns whether the buffer was kept.
func decode(t *testing.T, raw []byte) (*guestv1.ExecResponse, bool, error) {
	t.Helper()
	buf := mem.NewBuffer(&raw, nil)
	defer buf.Free()
	m := &response{}
	err := m.UnmarshalBytes(buf)
	if m.buffer != nil {
		defer m.buffer.Free()
	}
	if err != nil {
		return nil, false, err
	}
	return proto.CloneOf(m.ExecResponse), m.buffer != nil, nil
}

func TestResponse(t *testing.T) {
	large := bytes.Repeat([]byte("x"), coalesceBelow)
	tests := []struct {
		m    *guestv1.ExecResponse
		kept bool
	}{
		{&guestv1.ExecResponse{}, false},
		{&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: &guestv1.Exit{Code: proto.Uint32(3)}}}, false},
		{&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: &guestv1.Output{Stream: stdoutStream, Data: []byte("x")}}}, false},
		{&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: &guestv1.Output{Stream: stdoutStream, Data: large}}}, true},
		{&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: &guestv1.Output{
			Stream: guestv1.Stream_STREAM_STDERR, Offset: math.MaxUint64, Data: large, Eof: true, Lost: 1 << 40, Acknowledge: true}}}, true},
	}
	for _, tt := range tests {
		raw, err := proto.Marshal(tt.m)
		if err != nil {
			t.Fatal(err)
		}
		got, kept, err := decode(t, raw)
		if err != nil || kept != tt.kept {
			t.Errorf("decode: buffer kept %v, %v, want %v", kept, err, tt.kept)
		}
		if d := cmp.Diff(tt.m, got, protocmp.Transform()); d != "" {
			t.Error(d)
		}
	}
}

func TestInputRequest(t *testing.T) {
	for _, in := range []*guestv1.Input{{Eof: true}, {Data: []byte("x")}, {Offset: math.MaxUint64, Data: bytes.Repeat([]byte("y"), inputChunk), Eof: true}} {
		head, payload, err := inputRequest{in}.MarshalBytes([]byte("before"))
		if err != nil || !bytes.HasPrefix(head, []byte("before")) {
			t.Fatalf("MarshalBytes: %v", err)
		}
		got := new(guestv1.ExecRequest)
		if err := proto.Unmarshal(append(head[len("before"):], payload...), got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(in, got.GetInput(), protocmp.Transform()); d != "" {
			t.Error(d)
		}
	}
}

// FuzzResponse compares the decoding without copies to the ordinary one.
func FuzzResponse(f *testing.F) {
	for _, n := range []int{0, 10, coalesceBelow} {
		raw, err := proto.Marshal(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: &guestv1.Output{
			Stream: stdoutStream, Offset: 77, Lost: 5, Data: make([]byte, n), Eof: n == 10}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		want := new(guestv1.ExecResponse)
		wantErr := proto.Unmarshal(raw, want)
		got, kept, err := decode(t, raw)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("decoded %v, want %v", err, wantErr)
		}
		if err == nil && !proto.Equal(got, want) {
			t.Errorf("decoded %v (kept %v), want %v", got, kept, want)
		}
	})
}
