//go:build linux

package agent

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/audit"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestClockOfAPart: an agent that is part of a program sets no clock, says so beforehand,
// and its log has what was asked for.
func TestClockOfAPart(t *testing.T) {
	cfg := &Config{}
	log := audited(t, cfg)
	_, l := serve(t, cfg, nil)
	for wire, conn := range clients(t, l, vsockPeer(2, 900)) {
		cc := guestv1.NewClockServiceClient(conn)
		if r, err := cc.ReadClock(t.Context(), &guestv1.ReadClockRequest{}); err != nil || r.SentUnixNanos < r.ReceivedUnixNanos {
			t.Errorf("%s: read: %v, %v", wire, r, err)
		}
		_, err := cc.SetClock(t.Context(), &guestv1.SetClockRequest{WallUnixNanos: 1, Force: true})
		if status.Code(err) != codes.FailedPrecondition || detailOf(err).GetReason() != "embedded-agent" {
			t.Errorf("%s: set: %v", wire, err)
		}
		_, err = cc.AdjustClock(t.Context(), &guestv1.AdjustClockRequest{AdjustNanos: -1_500_000_000, Force: true})
		if status.Code(err) != codes.FailedPrecondition || detailOf(err).GetReason() != "embedded-agent" {
			t.Errorf("%s: adjust: %v", wire, err)
		}
		info, err := guestv1.NewAgentServiceClient(conn).Info(t.Context(), &guestv1.InfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range info.Capabilities {
			if c.Name == "set-clock" && (c.Enabled || c.Reason == "") {
				t.Errorf("%s: %v", wire, c)
			}
		}
	}
	for event, detail := range map[string]string{audit.Begin: "adjust by -1.5s", audit.End: "set to 1970-01-01T00:00:00.000000001Z"} {
		if n := len(log.find(func(r audit.Record) bool { return r.Event == event && r.Detail == detail })); n != 2 {
			t.Errorf("%d records of event %q with %q, want 2", n, event, detail)
		}
	}
}
