package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// mixedMessage is message i of a test, whose length and contents i decides.
func mixedMessage(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 1))
	n := rng.IntN(8 << 10)
	switch i % 50 {
	case 0:
		n = 200 << 10 // in several frames
	case 1:
		n = 40 << 10 // most of the read buffer
	case 2:
		n = 0
	}
	b := make([]byte, n)
	for k := range b {
		b[k] = byte(i + k*7)
	}
	return b
}

// sendMixed sends n messages, some ordinary, some BytesMessages, with pauses now and
// then, so that reads bring much and little.
func sendMixed(send func(any) error, n int) error {
	for i := range n {
		m := any(wrapperspb.Bytes(mixedMessage(i)))
		if i%3 == 0 {
			m = &blob{data: mixedMessage(i)}
		}
		if err := send(m); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if i%97 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// receiveMixed receives them, into either kind, and checks each again after the next
// have come.
func receiveMixed(recv func(any) error, n int) error {
	kept := make([]*blob, 0, n)
	defer func() {
		for _, b := range kept {
			b.release()
		}
	}()
	for i := range n {
		b := &blob{}
		if i%2 == 0 {
			if err := recv(b); err != nil {
				return fmt.Errorf("message %d: %w", i, err)
			}
		} else {
			var m wrapperspb.BytesValue
			if err := recv(&m); err != nil {
				return fmt.Errorf("message %d: %w", i, err)
			}
			b.data = m.Value
		}
		kept = append(kept, b)
		for k := max(0, i-40); k <= i; k += 1 + (i-k)/2 {
			if want := mixedMessage(k); !bytes.Equal(kept[k].data, want) {
				return fmt.Errorf("message %d, after %d: %d bytes that are not the %d sent", k, i, len(kept[k].data), len(want))
			}
		}
		if i%211 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// TestMixedMessages: messages are what was sent, on both sides, however they come.
func TestMixedMessages(t *testing.T) {
	const n = 1000
	ended := make(chan error, 1)
	srv := newEchoServer(nil, nil)
	bidi(srv, func(ss grpc.ServerStream) (err error) {
		defer func() { ended <- err }()
		if err := receiveMixed(ss.RecvMsg, n); err != nil {
			return err
		}
		if err := ss.RecvMsg(&blob{}); !errors.Is(err, io.EOF) {
			return fmt.Errorf("%v instead of the end", err)
		}
		return sendMixed(ss.SendMsg, n)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cs, err := callBidi(ctx, clientFor(t, serveUnix(t, srv), "native/unix"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sendMixed(cs.SendMsg, n); err != nil {
		t.Fatal(err)
	}
	if err := cs.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := receiveMixed(cs.RecvMsg, n); err != nil {
		t.Fatal(err)
	}
	if err := cs.RecvMsg(&blob{}); !errors.Is(err, io.EOF) {
		t.Fatalf("%v instead of the end", err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestReceivedMessagesShareNothing keeps some messages of a stream, writes to and
// appends to others, and looks whether those that were kept change.
func TestReceivedMessagesShareNothing(t *testing.T) {
	const n = 400
	e := &echo{both: func(st grpc.ServerStream) error {
		for i := range n {
			if err := st.SendMsg(wrapperspb.Bytes(mixedMessage(i))); err != nil {
				return err
			}
		}
		return nil
	}}
	for _, which := range []string{"native/unix", "native/pipe"} {
		cc := clientFor(t, serveFor(t, newEchoServer(e, nil), which), which)
		st, err := cc.NewStream(t.Context(), bothDesc, "/test.Echo/Both")
		if err != nil {
			t.Fatal(err)
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		kept := map[int][]byte{}
		for i := range n {
			var m wrapperspb.BytesValue
			if err := st.RecvMsg(&m); err != nil {
				t.Fatal(err)
			}
			if i%10 == 0 {
				kept[i] = m.Value
				continue
			}
			_ = append(m.Value, "more"...)
			clear(m.Value)
		}
		for i, got := range kept {
			if !bytes.Equal(got, mixedMessage(i)) {
				t.Errorf("%s: message %d was changed", which, i)
			}
		}
	}
}
