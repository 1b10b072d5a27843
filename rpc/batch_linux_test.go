package rpc

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// TestFirstAnswersOfABatch shows that a client which sends many calls at once has
// the first answers while the handlers of the others have not begun, and that a
// batch of a few calls is answered with one write.
func TestFirstAnswersOfABatch(t *testing.T) {
	tests := []struct {
		name  string
		calls int
		early int // answers that are there when the last handler runs
	}{
		{"few", firstAnswers * manyMore, 0},
		{"many", firstAnswers * (2 + manyMore), firstAnswers},
		{"full", fullAnswers + firstAnswers, fullAnswers},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The scheduler may take a handler for a slow one, which changes all.
			const tries = 20
			for n := 1; ; n++ {
				got := earlyAnswers(t, tt.calls)
				if got == tt.early {
					return
				}
				if n == tries {
					t.Fatalf("the client had %d answers before the last handler, want %d", got, tt.early)
				}
			}
		})
	}
}

// earlyAnswers sends so many calls with one write, and returns how many answers
// the client could read when the handler of the last one ran.
func earlyAnswers(t *testing.T, calls int) int {
	const method = "/test.Echo/Echo"
	var raw syscall.RawConn
	var left atomic.Int32
	early := make([]byte, 64<<10)
	n := 0
	s := newEchoServer(&echo{unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		if left.Add(-1) == 0 {
			_ = raw.Control(func(fd uintptr) {
				n, _, _ = syscall.Recvfrom(int(fd), early, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			})
		}
		return in, nil
	}}, nil)
	nc, err := serveUnix(t, s)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if raw, err = nc.(*net.UnixConn).SyscallConn(); err != nil {
		t.Fatal(err)
	}
	p := &wirePeer{t, nc}
	p.hello()
	p.greeted()
	id := uint32(0)
	for !s.find(method).pace.quick() { // or it runs on a goroutine of its own
		id++
		p.open(id, method, "x", wire.FlagMsg|wire.FlagClose)
		p.wantEnd(id)
		time.Sleep(time.Millisecond) // its goroutine says afterwards how quick it was
	}
	left.Store(int32(calls))
	var batch []byte
	for range calls {
		id++
		batch = append(batch, openFrame(id, method, "x", wire.FlagMsg|wire.FlagClose)...)
	}
	p.send(batch)
	time.Sleep(10 * time.Millisecond) // until the last handler has run: it looks what nobody has read
	for range calls {                 // in any order: one that is taken over from is answered by another goroutine
		if h, head := p.want(wire.FrameEnd); h.Flags != wire.FlagMsg {
			t.Fatalf("END of stream %d: flags %#x, %q", h.Stream, h.Flags, head)
		}
	}
	early = early[:max(n, 0)]
	got := 0
	for len(early) > 0 {
		early = early[wire.HeaderLen+int(wire.ParseHeader(early).Length):]
		got++
	}
	return got
}
