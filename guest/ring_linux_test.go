package guest_test

import (
	"context"
	"testing"
	"time"
)

// TestSmallRing runs a command whose ring is much smaller than the window: the agent
// asks for acknowledgements, without which the command would wait for ever.
func TestSmallRing(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := dialAgent(t, startAgent(t)).Command(ctx, "head", "-c", "3000000", "/dev/zero")
	cmd.RingBytes = 64 << 10
	if out, err := cmd.Output(); err != nil || len(out) != 3_000_000 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}
