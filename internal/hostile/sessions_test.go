//go:build linux

package hostile

import (
	"bytes"
	"context"
	"io"
	"math"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func flow(s guestv1.Stream, consumed, window uint64) *guestv1.ExecRequest {
	return &guestv1.ExecRequest{Message: &guestv1.ExecRequest_FlowControl{FlowControl: &guestv1.FlowControl{Stream: s, ConsumedOffset: consumed, Window: window}}}
}

func input(offset uint64, data string, eof bool) *guestv1.ExecRequest {
	return &guestv1.ExecRequest{Message: &guestv1.ExecRequest_Input{Input: &guestv1.Input{Offset: offset, Data: []byte(data), Eof: eof}}}
}

// TestHostileSessions: acknowledgements and input that make no sense end the call of
// who sends them, with a code, and no other session.
func TestHostileSessions(t *testing.T) {
	const stdin, stdout = guestv1.Stream_STREAM_STDIN, guestv1.Stream_STREAM_STDOUT
	tests := map[string][]*guestv1.ExecRequest{
		"more than was sent":       {flow(stdout, 1<<40, 1<<20)},
		"at the end of numbers":    {flow(stdout, math.MaxUint64, math.MaxUint64)},
		"backwards":                {input(0, "x", false), flow(stdout, 1, 1<<20), flow(stdout, 0, 1<<20)},
		"of stdin":                 {flow(stdin, 5, 5)},
		"of no stream":             {flow(77, 0, 5)},
		"a window without end":     {flow(stdout, 0, math.MaxUint64)},
		"a gap in stdin":           {input(5, "x", false)},
		"stdin at the last offset": {input(math.MaxUint64, "x", false)},
		"stdin after its end":      {input(0, "x", true), input(1, "y", false)},
		"a message of nothing":     {{}},
		"a second opening":         {{Message: &guestv1.ExecRequest_Open{Open: &guestv1.Open{}}}},
	}
	for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
		g := embedded(t, &agent.Config{}, wire)
		honest := g.Command(t.Context(), "cat")
		in, err := honest.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := honest.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := honest.Start(); err != nil {
			t.Fatal(err)
		}
		n := byte(0)
		for name, messages := range tests {
			n++
			id := bytes.Repeat([]byte{n}, 16)
			err := exec(t.Context(), g, id, messages)
			if c := status.Code(err); c == codes.Unknown || c == codes.Internal || c == codes.DeadlineExceeded {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := io.WriteString(in, "x"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
				t.Fatalf("%s: the honest session: %v", name, err)
			}
		}
		in.Close()
		if err := honest.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// exec runs cat, sends messages and the end of stdin, and returns how the call ends.
func exec(ctx context.Context, g *guest.Guest, id []byte, messages []*guestv1.ExecRequest) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := guestv1.NewProcessServiceClient(g.Conn()).Exec(ctx)
	if err != nil {
		return err
	}
	open := &guestv1.Open{SessionId: id, Window: 1 << 20, Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("cat")}}}
	send := append([]*guestv1.ExecRequest{{Message: &guestv1.ExecRequest_Open{Open: open}}}, messages...)
	for _, m := range send {
		if st.Send(m) != nil {
			break
		}
	}
	// Leaving ends the session, if it is still there.
	_ = st.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Leave{Leave: &guestv1.Leave{}}})
	_ = st.CloseSend()
	for {
		if _, err := st.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
