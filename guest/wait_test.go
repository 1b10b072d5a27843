package guest

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// slowToBoot returns a configuration of f whose first dials fail.
func slowToBoot(f *fakeAgent, failures int64) (*Config, *atomic.Int64) {
	cfg := f.config()
	dial := cfg.Dialer
	left := new(atomic.Int64)
	left.Store(failures)
	cfg.Dialer = func(ctx context.Context) (net.Conn, error) {
		if left.Add(-1) >= 0 {
			return nil, errors.New("nobody listens")
		}
		return dial(ctx)
	}
	return cfg, left
}

func TestDialWait(t *testing.T) {
	f := newFakeAgent(t)
	cfg, left := slowToBoot(f, 3)
	if g, err := Dial(t.Context(), "fake", cfg); err == nil {
		g.Close()
		t.Fatal("Dial reached a guest that boots")
	}
	g, err := DialWait(t.Context(), "fake", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if n := left.Load(); n >= 0 {
		t.Errorf("%d dials should still fail", n)
	}
}

func TestDialWaitGivesUp(t *testing.T) {
	f := newFakeAgent(t)
	cfg, _ := slowToBoot(f, 1<<40)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	g, err := DialWait(ctx, "fake", cfg)
	if g != nil || !errors.Is(err, context.DeadlineExceeded) || !isReason(err, ReasonUnreachable) && !isReason(err, ReasonNoAnswer) {
		t.Errorf("%v, %v", g, err)
	}
	if _, err := DialWait(t.Context(), "no guest of this name", nil); !isReason(err, ReasonBadTarget) {
		t.Errorf("a bad target: %v", err)
	}
	none := newFakeAgent(t, func(grpc.ServiceRegistrar) {})
	if _, err := DialWait(t.Context(), "fake", none.config()); !isReason(err, ReasonNotAnAgent) {
		t.Errorf("something else that answers: %v", err)
	}
}

func TestWaitReady(t *testing.T) {
	f := newFakeAgent(t)
	cfg, left := slowToBoot(f, 0)
	cfg.Reconnect = -1
	var last atomic.Pointer[net.Conn]
	f.cut = func(c net.Conn) net.Conn {
		last.Store(&c)
		return c
	}
	g, err := Dial(t.Context(), "fake", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	left.Store(3) // it reboots
	(*last.Load()).Close()
	if err := g.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Info(t.Context()); err != nil {
		t.Errorf("after WaitReady: %v", err)
	}
	g.Close()
	if err := g.WaitReady(t.Context()); !isReason(err, ReasonClosed) {
		t.Errorf("a closed guest: %v", err)
	}
}
