package bulk

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

var _ rpc.BytesMessage = (*Frame)(nil)

func newExecResponse() proto.Message { return new(guestv1.ExecResponse) }

// TestSameEncoding shows that a frame and the generated message are one
// encoding.
func TestSameEncoding(t *testing.T) {
	output := func(o *guestv1.Output) *guestv1.ExecResponse {
		return &guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: o}}
	}
	big := bytes.Repeat([]byte{1, 2, 3, 0}, 16<<10)
	tests := map[string]struct {
		frame   Frame
		message *guestv1.ExecResponse
	}{
		"data": {
			Frame{Layout: ExecOutput, Varints: [8]uint64{1: 2, 2: 1 << 40}, Data: big},
			output(&guestv1.Output{Stream: guestv1.Stream_STREAM_STDOUT, Offset: 1 << 40, Data: big}),
		},
		"no data": {
			Frame{Layout: ExecOutput, Varints: [8]uint64{1: 3, 2: 7, 4: 1, 5: 9}},
			output(&guestv1.Output{Stream: guestv1.Stream_STREAM_STDERR, Offset: 7, Eof: true, Lost: 9}),
		},
		"empty": {Frame{Layout: ExecOutput}, output(&guestv1.Output{})},
		"control": {
			Frame{Layout: ExecOutput, Control: &guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: &guestv1.Exit{Signal: 9}}}},
			&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: &guestv1.Exit{Signal: 9}}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			head, payload, err := tt.frame.MarshalBytes([]byte("kept"))
			if err != nil {
				t.Fatal(err)
			}
			encoded := append(head, payload...)[len("kept"):]
			got := new(guestv1.ExecResponse)
			if err := proto.Unmarshal(encoded, got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.message, got, protocmp.Transform()); diff != "" {
				t.Errorf("as the generated message (-want +got):\n%s", diff)
			}

			encoded, err = proto.Marshal(tt.message)
			if err != nil {
				t.Fatal(err)
			}
			back := Frame{Layout: ExecOutput, NewControl: newExecResponse}
			if err := back.UnmarshalBytes(mem.SliceBuffer(encoded)); err != nil {
				t.Fatal(err)
			}
			if back.Varints != tt.frame.Varints || !bytes.Equal(back.Data, tt.frame.Data) {
				t.Errorf("decoded %v with %d bytes, want %v with %d", back.Varints, len(back.Data), tt.frame.Varints, len(tt.frame.Data))
			}
			if diff := cmp.Diff(tt.frame.Control, back.Control, protocmp.Transform()); diff != "" {
				t.Errorf("control (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReuse shows that nothing of an earlier message is left.
func TestReuse(t *testing.T) {
	f := Frame{Layout: Tunnel, Varints: [8]uint64{2: 1}, Data: []byte("old")}
	encoded, err := proto.Marshal(&guestv1.DialResponse{Message: &guestv1.DialResponse_Segment{Segment: &guestv1.Segment{}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.UnmarshalBytes(mem.SliceBuffer(encoded)); err != nil {
		t.Fatal(err)
	}
	if f.Varints[2] != 0 || f.Data != nil {
		t.Errorf("left over: %v %q", f.Varints, f.Data)
	}
}

func FuzzFrame(f *testing.F) {
	for _, m := range []proto.Message{
		&guestv1.ExecResponse{},
		&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: &guestv1.Output{Stream: 2, Offset: 300, Data: []byte("abc"), Eof: true}}},
		&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: &guestv1.Exit{}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\x12\x06\x80\x80\x80\x80\x30\x00")) // an unknown field, with a number that is too large
	f.Fuzz(func(t *testing.T, b []byte) {
		got := Frame{Layout: ExecOutput, NewControl: newExecResponse}
		if got.UnmarshalBytes(mem.SliceBuffer(b)) != nil {
			return
		}
		// Whatever is accepted means the same to the generated code.
		want := new(guestv1.ExecResponse)
		if err := proto.Unmarshal(b, want); err != nil {
			t.Fatalf("accepted %x, which the generated code does not: %v", b, err)
		}
		if !got.IsData() {
			return
		}
		if want.GetOutput() == nil || !bytes.Equal(want.GetOutput().GetData(), got.Data) || want.GetOutput().GetOffset() != got.Varints[2] {
			t.Fatalf("%x decodes to %v and %q, want %v", b, got.Varints, got.Data, want)
		}
	})
}

// TestLongControl encodes messages that are no data and too long for the head: all of
// them into the same memory.
func TestLongControl(t *testing.T) {
	f := Frame{Layout: FilePiece}
	var first *byte
	for n := 2000; n > 0; n -= 600 {
		m := &guestv1.UploadRequest{Message: &guestv1.UploadRequest_File{File: &guestv1.FileStart{
			Entry: &guestv1.Entry{Contents: make([]byte, n)}}}}
		want, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		f.Control = m
		head, payload, err := f.MarshalBytes(make([]byte, 0, 64))
		if err != nil || len(head) > 0 || !bytes.Equal(payload, want) {
			t.Fatalf("%d bytes before %d, %v: not the message of %d", len(head), len(payload), err, len(want))
		}
		if first == nil {
			first = &payload[0]
		} else if first != &payload[0] {
			t.Error("not the same memory")
		}
	}
}
