package guest

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestEveryMethodHasAName goes through the descriptors: of a method that is new,
// somebody has to say how an agent that lacks it is told of.
func TestEveryMethodHasAName(t *testing.T) {
	described := make(map[string]bool)
	protoregistry.GlobalFiles.RangeFilesByPackage("guest.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				method := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				described[method] = true
				f, ok := features[method]
				if !ok || f.name == "" || f.since == 0 {
					t.Errorf("features lacks %s", method)
					continue
				}
				var e Error
				e.tooOld(method, &guestv1.InfoResponse{Version: "v0", ProtocolVersion: f.since - 1})
				if method != guestv1.AgentService_Info_FullMethodName && (e.Reason != ReasonAgentTooOld || !strings.Contains(e.message, f.name) || !strings.Contains(e.message, "needs protocol")) {
					t.Errorf("%s: %q, %s", method, e.message, e.Reason)
				}
			}
		}
		return true
	})
	for method := range features {
		if !described[method] {
			t.Errorf("there is no method %s", method)
		}
	}
}
