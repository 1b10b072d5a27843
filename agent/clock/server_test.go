//go:build linux

package clock

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const start = int64(1_700_000_000_123_456_789)

// fakeClock is a kernel whose clock is a number.
type fakeClock struct {
	wall   int64
	slewed int64
	rtc    int64
	err    error // of setting it
	rtcErr error
	keeper string
}

func (f *fakeClock) kernel() kernel {
	return kernel{
		now: func() clocks { return clocks{wall: f.wall, monotonic: 5, boot: 7} },
		set: func(n int64) error {
			if f.err == nil {
				f.wall = n
			}
			return f.err
		},
		step: func(n int64) error {
			if f.err == nil {
				f.wall += n
			}
			return f.err
		},
		slew: func(n int64) error {
			if f.err == nil {
				f.slewed = n
			}
			return f.err
		},
		setRTC: func() error {
			if f.rtcErr == nil {
				f.rtc = f.wall
			}
			return f.rtcErr
		},
		keeper: func(context.Context) (string, error) { return f.keeper, nil },
	}
}

func newFake(machine bool) (*Server, *fakeClock) {
	f := &fakeClock{wall: start}
	s := NewServer(&Config{Machine: machine, Logger: slog.New(slog.DiscardHandler)})
	s.kernel = f.kernel()
	return s, f
}

func reasonOf(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Reason()
	}
	return ""
}

func TestReadClock(t *testing.T) {
	s, f := newFake(false)
	f.keeper = "chronyd"
	resp, err := s.ReadClock(t.Context(), &guestv1.ReadClockRequest{})
	if err != nil || resp.ReceivedUnixNanos != start || resp.SentUnixNanos != start || resp.MonotonicNanos != 5 || resp.BoottimeNanos != 7 || resp.Keeper != "" {
		t.Errorf("%v, %v", resp, err)
	}
	if resp, err = s.ReadClock(t.Context(), &guestv1.ReadClockRequest{FindKeeper: true}); err != nil || resp.Keeper != "chronyd" {
		t.Errorf("keeper: %v, %v", resp, err)
	}
}

// TestSystemClocks reads the clocks of this machine, which are there and go forward.
func TestSystemClocks(t *testing.T) {
	before := time.Now().UnixNano()
	a, b := readClocks(), readClocks()
	if a.wall < before-int64(time.Hour) || a.monotonic <= 0 || a.boot < a.monotonic-int64(time.Second) || b.monotonic < a.monotonic {
		t.Errorf("%+v, %+v after %d", a, b, before)
	}
}

func TestAdjust(t *testing.T) {
	const ms = int64(time.Millisecond)
	for _, tt := range []struct {
		name           string
		by, wrong      int64
		step, force    bool
		keeper         string
		action         guestv1.ClockAction
		moved, slewed  int64
		rtcErr         error
		wantRTC        bool
		wantChangeWall bool
	}{
		{name: "at the limit", by: 100 * ms, action: guestv1.ClockAction_CLOCK_ACTION_SLEWED, moved: 100 * ms, slewed: 100 * ms},
		{name: "above it", by: 100*ms + 1, action: guestv1.ClockAction_CLOCK_ACTION_STEPPED, moved: 100*ms + 1, wantRTC: true, wantChangeWall: true},
		{name: "below it, back", by: -100 * ms, action: guestv1.ClockAction_CLOCK_ACTION_SLEWED, moved: -100 * ms, slewed: -100 * ms},
		{name: "beyond it, back", by: -101 * ms, action: guestv1.ClockAction_CLOCK_ACTION_STEPPED, moved: -101 * ms, wantRTC: true, wantChangeWall: true},
		{name: "four errors", by: 400 * ms, wrong: 100 * ms, action: guestv1.ClockAction_CLOCK_ACTION_SLEWED, moved: 400 * ms, slewed: 400 * ms},
		{name: "more than four errors", by: 401 * ms, wrong: 100 * ms, action: guestv1.ClockAction_CLOCK_ACTION_STEPPED, moved: 401 * ms, wantRTC: true, wantChangeWall: true},
		{name: "more than the kernel slews", by: -2000 * ms, wrong: 1000 * ms, action: guestv1.ClockAction_CLOCK_ACTION_SLEWED, moved: -500 * ms, slewed: -500 * ms},
		{name: "an error without end", by: 2000 * ms, wrong: math.MaxInt64, action: guestv1.ClockAction_CLOCK_ACTION_SLEWED, moved: 500 * ms, slewed: 500 * ms},
		{name: "asked to step", by: 1, step: true, action: guestv1.ClockAction_CLOCK_ACTION_STEPPED, moved: 1, wantRTC: true, wantChangeWall: true},
		{name: "another keeper", by: 1000 * ms, step: true, keeper: "ntpd", action: guestv1.ClockAction_CLOCK_ACTION_LEFT},
		{name: "another keeper, forced", by: 1000 * ms, force: true, keeper: "ntpd", action: guestv1.ClockAction_CLOCK_ACTION_STEPPED, moved: 1000 * ms, wantRTC: true, wantChangeWall: true},
		{name: "no hardware clock", by: 1000 * ms, rtcErr: errors.New("none"), action: guestv1.ClockAction_CLOCK_ACTION_STEPPED, moved: 1000 * ms, wantChangeWall: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, f := newFake(true)
			f.keeper, f.rtcErr = tt.keeper, tt.rtcErr
			resp, err := s.AdjustClock(t.Context(), &guestv1.AdjustClockRequest{AdjustNanos: tt.by, ErrorNanos: tt.wrong, Step: tt.step, Force: tt.force})
			if err != nil {
				t.Fatal(err)
			}
			c := resp.Change
			if c.Action != tt.action || c.MovedNanos != tt.moved || c.Keeper != tt.keeper || c.RtcSet != tt.wantRTC || (c.RtcError != "") != (tt.rtcErr != nil) {
				t.Errorf("%v", c)
			}
			want := start
			if tt.wantChangeWall {
				want += tt.moved
			}
			if f.wall != want || f.slewed != tt.slewed || tt.wantRTC && f.rtc != want {
				t.Errorf("wall %d, want %d; slewed %d, want %d; rtc %d", f.wall, want, f.slewed, tt.slewed, f.rtc)
			}
		})
	}
}

func TestSetClock(t *testing.T) {
	s, f := newFake(true)
	resp, err := s.SetClock(t.Context(), &guestv1.SetClockRequest{WallUnixNanos: start + 1_000_000_001})
	if err != nil || f.wall != start+1_000_000_001 || resp.Change.MovedNanos != 1_000_000_001 || !resp.Change.RtcSet {
		t.Errorf("%v, %v, %d", resp, err, f.wall)
	}
	f.keeper = "chronyd"
	if resp, err = s.SetClock(t.Context(), &guestv1.SetClockRequest{WallUnixNanos: start}); err != nil || resp.Change.Action != guestv1.ClockAction_CLOCK_ACTION_LEFT || f.wall == start {
		t.Errorf("beside a keeper: %v, %v", resp, err)
	}
	if _, err = s.SetClock(t.Context(), &guestv1.SetClockRequest{WallUnixNanos: start, Force: true}); err != nil || f.wall != start {
		t.Errorf("forced: %v", err)
	}
}

// TestRefused: what is malformed, or of an agent inside a program, changes nothing.
func TestRefused(t *testing.T) {
	set := func(n int64) func(*Server) error {
		return func(s *Server) error {
			_, err := s.SetClock(t.Context(), &guestv1.SetClockRequest{WallUnixNanos: n, Force: true})
			return err
		}
	}
	adjust := func(by, wrong int64) func(*Server) error {
		return func(s *Server) error {
			_, err := s.AdjustClock(t.Context(), &guestv1.AdjustClockRequest{AdjustNanos: by, ErrorNanos: wrong, Step: true, Force: true})
			return err
		}
	}
	for name, tt := range map[string]struct {
		call    func(*Server) error
		machine bool
		kernel  error
		code    codes.Code
		reason  string
	}{
		"no time":             {set(0), true, nil, codes.InvalidArgument, "bad-time"},
		"before 1970":         {set(-1), true, nil, codes.InvalidArgument, "bad-time"},
		"by nothing":          {adjust(0, 0), true, nil, codes.InvalidArgument, "bad-time"},
		"negative error":      {adjust(1, -1), true, nil, codes.InvalidArgument, "bad-time"},
		"after 2262":          {adjust(math.MaxInt64, 0), true, nil, codes.InvalidArgument, "bad-time"},
		"to before 1970":      {adjust(math.MinInt64, 0), true, nil, codes.InvalidArgument, "bad-time"},
		"set, embedded":       {set(start + 1), false, nil, codes.FailedPrecondition, "embedded-agent"},
		"adjust, embedded":    {adjust(1, 0), false, nil, codes.FailedPrecondition, "embedded-agent"},
		"no right to set":     {set(start + 1), true, syscall.EPERM, codes.PermissionDenied, "not-permitted"},
		"no right to adjust":  {adjust(1, 0), true, syscall.EPERM, codes.PermissionDenied, "not-permitted"},
		"not for this kernel": {set(math.MaxInt64), true, syscall.EINVAL, codes.InvalidArgument, "bad-time"},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := newFake(tt.machine)
			f.err = tt.kernel
			err := tt.call(s)
			if status.Code(err) != tt.code || reasonOf(err) != tt.reason {
				t.Errorf("%v, %s: %v", status.Code(err), reasonOf(err), err)
			}
			if f.wall != start || f.slewed != 0 || f.rtc != 0 {
				t.Errorf("changed: %+v", f)
			}
		})
	}
}
