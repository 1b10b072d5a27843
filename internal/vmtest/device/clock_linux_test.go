package device

import (
	"context"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

// clock sets the clock of the guest an hour back and has it follow this machine's again,
// by a step and then by a slew.
func clock(t *testing.T, m *machine) {
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	read := func() *guest.ClockReading {
		t.Helper()
		r, err := m.sdk.Clock(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	back, err := m.sdk.SetClock(ctx, time.Now().Add(-time.Hour), nil)
	if err != nil || back.Action != guest.ClockStepped || back.Keeper != "" {
		t.Fatalf("set: %+v, %v", back, err)
	}
	if r := read(); r.Offset > -50*time.Minute || r.Offset < -70*time.Minute {
		t.Errorf("an hour back it is off by %v", r.Offset)
	}
	change, before, err := m.sdk.SyncClock(ctx, nil)
	if err != nil || change.Action != guest.ClockStepped || change.Moved != -before.Offset {
		t.Fatalf("sync: %+v, %v", change, err)
	}
	after := read()
	t.Logf("before: %v within %v; after: %v within %v; hardware clock: %t %s", before.Offset, before.Error, after.Offset, after.Error, change.RTCSet, change.RTCError)
	if limit := before.Error + after.Error + 50*time.Millisecond; after.Offset.Abs() > limit {
		t.Errorf("after a step it is off by %v, more than %v", after.Offset, limit)
	}
	if change, before, err = m.sdk.SyncClock(ctx, nil); err != nil || change.Action != guest.ClockSlewed && before.Offset.Abs() <= 100*time.Millisecond && before.Offset != 0 {
		t.Errorf("sync again: %+v, %+v, %v", change, before, err)
	}
}
