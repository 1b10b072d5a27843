package guest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// TestClock reads the clock of this machine over both wires: its offset is within its
// error of 0. An agent inside a program does not set it.
func TestClock(t *testing.T) {
	addr := startAgent(t)
	for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
		t.Run(string(wire), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			g, err := guest.Dial(ctx, addr, &guest.Config{Wire: wire})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			r, err := g.Clock(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if r.Offset.Abs() > r.Error+time.Millisecond || r.Error <= 0 || r.Monotonic <= 0 || r.Boot < r.Monotonic-time.Second {
				t.Errorf("%+v", r)
			}
			_, err = g.SetClock(ctx, time.Now(), &guest.SetClockOptions{Force: true})
			wantEmbedded(t, "set", err)
			if r.Offset != 0 {
				_, _, err = g.SyncClock(ctx, &guest.SetClockOptions{Force: true})
				wantEmbedded(t, "sync", err)
			}
		})
	}
}

func wantEmbedded(t *testing.T, what string, err error) {
	t.Helper()
	if e, ok := errors.AsType[*guest.Error](err); !ok || e.Reason != guest.ReasonEmbeddedAgent || e.Remedy == "" {
		t.Errorf("%s: %v", what, err)
	}
}

// wrongClock is a guest whose clock is ahead, and takes what it is adjusted by.
type wrongClock struct {
	guestv1.UnimplementedClockServiceServer
	guestv1.UnimplementedAgentServiceServer
	ahead    time.Duration
	calls    int
	adjusted *guestv1.AdjustClockRequest
}

func (w *wrongClock) Info(context.Context, *guestv1.InfoRequest) (*guestv1.InfoResponse, error) {
	return &guestv1.InfoResponse{ProtocolVersion: 1, Access: &guestv1.Access{Trusted: true}}, nil
}

func (w *wrongClock) ReadClock(_ context.Context, r *guestv1.ReadClockRequest) (*guestv1.ReadClockResponse, error) {
	w.calls++
	now := time.Now().Add(w.ahead).UnixNano()
	resp := &guestv1.ReadClockResponse{ReceivedUnixNanos: now, SentUnixNanos: now, MonotonicNanos: uint64(w.calls)}
	if r.FindKeeper {
		resp.Keeper = "ntpd"
	}
	return resp, nil
}

func (w *wrongClock) AdjustClock(_ context.Context, r *guestv1.AdjustClockRequest) (*guestv1.AdjustClockResponse, error) {
	w.adjusted = r
	w.ahead += time.Duration(r.AdjustNanos)
	return &guestv1.AdjustClockResponse{Change: &guestv1.ClockChange{Action: guestv1.ClockAction_CLOCK_ACTION_STEPPED, MovedNanos: r.AdjustNanos, RtcError: "none"}}, nil
}

// TestSyncClock: a clock that is an hour ahead is measured eight times, and is right
// after its guest has been told by how much it is wrong.
func TestSyncClock(t *testing.T) {
	w := &wrongClock{ahead: time.Hour}
	s := rpc.NewServer(nil)
	guestv1.RegisterAgentServiceServer(s, w)
	guestv1.RegisterClockServiceServer(s, w)
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() {
		s.Stop()
		<-served
	}()
	g := dialAgent(t, "unix:"+l.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	change, before, err := g.SyncClock(ctx, &guest.SetClockOptions{Step: true})
	if err != nil {
		t.Fatal(err)
	}
	if w.calls != 8 || before.Keeper != "ntpd" || before.Monotonic != 8 || (before.Offset-time.Hour).Abs() > before.Error+time.Millisecond {
		t.Errorf("after %d calls: %+v", w.calls, before)
	}
	if a := w.adjusted; a.AdjustNanos != -int64(before.Offset) || a.ErrorNanos != int64(before.Error) || !a.Step || a.Force {
		t.Errorf("adjusted by %v", a)
	}
	if change.Action != guest.ClockStepped || change.Moved != -before.Offset || change.RTCSet || change.RTCError != "none" {
		t.Errorf("%+v", change)
	}
	after, err := g.Clock(ctx)
	if err != nil || after.Offset.Abs() > after.Error+before.Error+time.Millisecond {
		t.Errorf("then: %+v, %v", after, err)
	}
}

func ExampleGuest_Clock() {
	addr, stop := exampleAgent()
	defer stop()
	ctx := context.Background()
	g, err := guest.Dial(ctx, addr, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	clock, err := g.Clock(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("within a second:", clock.Offset.Abs() < time.Second+clock.Error)
	// Output: within a second: true
}
