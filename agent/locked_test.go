//go:build linux

package agent

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/vsockrpc/vsockrpc/agent/access"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestLocked: while it is not known who may call, health answers, and nothing else
// does, whoever calls.
func TestLocked(t *testing.T) {
	_, l := serve(t, &Config{Locked: "require-keys=yes: parse error", Access: access.Rules{Mode: access.ModeHost}}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for wire, cc := range clients(t, l, vsockPeer(2, 900)) {
		if _, err := healthv1.NewHealthClient(cc).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
			t.Errorf("%s, health: %v", wire, err)
		}
		for _, method := range access.Methods() {
			if access.ClassOf(method) == access.Open {
				continue
			}
			st, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err != nil {
				t.Fatal(err)
			}
			_ = st.SendMsg(&emptypb.Empty{})
			_ = st.CloseSend()
			if err = st.RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.FailedPrecondition || detailOf(err).GetReason() != "misconfigured" {
				t.Errorf("%s, %s: %v", wire, method, err)
			}
		}
		_, err := guestv1.NewAgentServiceClient(cc).Info(t.Context(), &guestv1.InfoRequest{})
		if d := detailOf(err); d.GetReason() != "misconfigured" || d.GetRemedy() == "" {
			t.Errorf("%s: %v, %v", wire, err, d)
		}
	}
}
