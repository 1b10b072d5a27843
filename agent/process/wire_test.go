package process

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// The two encodings of each message mean the same.

func TestOutputEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := &guestv1.Output{
			Stream: guestv1.Stream(rapid.IntRange(0, 3).Draw(t, "stream")),
			Offset: rapid.Uint64().Draw(t, "offset"),
			Data:   rapid.SliceOf(rapid.Byte()).Draw(t, "data"),
			Eof:    rapid.Bool().Draw(t, "eof"),
			Lost:   rapid.Uint64().Draw(t, "lost"),

			Acknowledge: rapid.Bool().Draw(t, "acknowledge"),
		}
		m := newOutputResponse(o)
		head, payload, err := m.MarshalBytes([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		got := new(guestv1.ExecResponse)
		if err := proto.Unmarshal(append(head[len("before"):], payload...), got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m.ExecResponse, got, protocmp.Transform()); diff != "" {
			t.Fatalf("decoded (-want +got):\n%s", diff)
		}
	})
}

func TestInputDecoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{0, 1, smallInput, smallInput + 1, 5000}).Draw(t, "size")
		want := &guestv1.ExecRequest{Message: &guestv1.ExecRequest_Input{Input: &guestv1.Input{
			Offset: rapid.Uint64().Draw(t, "offset"),
			Data:   trueBytes(stdout, 0, size),
			Eof:    rapid.Bool().Draw(t, "eof"),
		}}}
		if rapid.IntRange(0, 4).Draw(t, "other") == 0 {
			want = &guestv1.ExecRequest{Message: &guestv1.ExecRequest_Signal{Signal: &guestv1.SendSignal{Signal: 15}}}
		}
		raw, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		buf := mem.NewBuffer(&raw, mem.NopBufferPool{})
		defer buf.Free()
		got := newInputRequest()
		if err := got.UnmarshalBytes(buf); err != nil {
			t.Fatal(err)
		}
		defer got.free()
		if diff := cmp.Diff(want, got.ExecRequest, protocmp.Transform()); diff != "" {
			t.Fatalf("decoded (-want +got):\n%s", diff)
		}
		if kept := got.buffer != nil; kept != (len(want.GetInput().GetData()) > smallInput) {
			t.Fatalf("the buffer of %d bytes is kept: %v", len(want.GetInput().GetData()), kept)
		}
	})
}

func FuzzInputDecoding(f *testing.F) {
	f.Add([]byte("\x12\x04\x08\x01\x12\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		in := inputIn(raw)
		want := new(guestv1.ExecRequest)
		err := proto.Unmarshal(raw, want)
		if in == nil {
			return
		}
		if err != nil {
			t.Fatalf("decoded what protobuf refuses: %v", err)
		}
		if diff := cmp.Diff(want.GetInput(), in, protocmp.Transform()); diff != "" {
			t.Fatalf("decoded (-want +got):\n%s", diff)
		}
	})
}
