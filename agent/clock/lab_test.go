//go:build linux

package clock

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestKernelClock sets the clock of a kernel of our own: to a time, by a step of either
// sign, and by a slew, which the kernel has then still to do.
func TestKernelClock(t *testing.T) {
	if os.Getenv("VSOCKRPC_LAB") != "uml" {
		t.Skip("it sets the clock of the machine: see docs/lab.md")
	}
	s := NewServer(&Config{Machine: true, Logger: slog.New(slog.DiscardHandler)})
	// off returns how far the wall clock has moved against the monotonic one since first.
	first := readClocks()
	off := func() time.Duration {
		now := readClocks()
		return time.Duration(now.wall - first.wall - (now.monotonic - first.monotonic))
	}
	near := func(what string, want time.Duration) {
		t.Helper()
		if got := off(); got < want-50*time.Millisecond || got > want+50*time.Millisecond {
			t.Errorf("%s: the clock has moved by %v, want %v", what, got, want)
		}
	}
	adjust := func(by time.Duration) *guestv1.ClockChange {
		t.Helper()
		resp, err := s.AdjustClock(t.Context(), &guestv1.AdjustClockRequest{AdjustNanos: int64(by)})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Change
	}
	c := adjust(90*time.Minute + 1)
	near("step ahead", 90*time.Minute)
	if c.Action != guestv1.ClockAction_CLOCK_ACTION_STEPPED || c.RtcSet == (c.RtcError != "") {
		t.Errorf("step: %v", c)
	}
	adjust(-90*time.Minute - time.Millisecond)
	near("step back", 0)
	resp, err := s.SetClock(t.Context(), &guestv1.SetClockRequest{WallUnixNanos: readClocks().wall + int64(24*time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	near("set", 24*time.Hour)
	if moved := time.Duration(resp.Change.MovedNanos); moved < 23*time.Hour || moved > 25*time.Hour {
		t.Errorf("set: moved by %v", moved)
	}
	if c = adjust(80 * time.Millisecond); c.Action != guestv1.ClockAction_CLOCK_ACTION_SLEWED {
		t.Errorf("slew: %v", c)
	}
	var left unix.Timex
	if _, err := unix.Adjtimex(&left); err != nil {
		t.Fatal(err)
	}
	if left.Status&unix.STA_PLL == 0 || left.Offset <= 0 || int64(left.Offset) > int64(80*time.Millisecond) {
		t.Errorf("the kernel has %d ns to slew, status %#x", left.Offset, left.Status)
	}
	adjust(-24 * time.Hour)
}
