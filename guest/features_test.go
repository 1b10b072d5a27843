package guest

import (
	"strings"
	"testing"

	"github.com/vsockrpc/vsockrpc/internal/declare"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestEveryMethodHasAName goes through the descriptors: the .proto file of a new
// method has to say what an agent that lacks it cannot do.
func TestEveryMethodHasAName(t *testing.T) {
	n := 0
	for method, desc := range declare.Methods() {
		n++
		d := declare.Of(desc)
		if d.GetFeature() == "" || d.GetSince() == 0 {
			t.Errorf("%s declares no feature, or not since when", method)
			continue
		}
		var e Error
		e.tooOld(method, &guestv1.InfoResponse{Version: "v0", ProtocolVersion: d.GetSince() - 1})
		if method != guestv1.AgentService_Info_FullMethodName && (e.Reason != ReasonAgentTooOld || !strings.Contains(e.message, d.GetFeature()) || !strings.Contains(e.message, "needs protocol")) {
			t.Errorf("%s: %q, %s", method, e.message, e.Reason)
		}
	}
	if n < 30 {
		t.Errorf("%d methods", n)
	}
	var e Error
	e.tooOld("/other.Service/Method", &guestv1.InfoResponse{})
	if !strings.Contains(e.message, "other.Service/Method") {
		t.Errorf("another program's method: %q", e.message)
	}
}
