//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestPolicyReload: a policy that comes, changes, breaks and goes while the agent
// runs, what it makes of calls then, and what Info says of it.
func TestPolicyReload(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.toml")
	_, l := serve(t, &Config{Policy: policy.Open(path, discard()), RecheckInterval: 5 * time.Millisecond}, nil)
	cc := client(t, l, vsockPeer(2, 900))
	const watch = "[roles.root]\npeers=['host-root']\n[[roles.root.allow]]\nmethods=['ProcessService/ListSessions']\n"
	for _, step := range []struct {
		name, text string // "": no file
		check      func(*guestv1.Access) bool
		sessions   codes.Code // ListSessions
		keys       codes.Code // ListHostKeys
	}{
		{"none", "", func(a *guestv1.Access) bool { return a.GetPolicy() == "" && a.GetError() == "" }, codes.OK, codes.OK},
		{"new", watch, func(a *guestv1.Access) bool { return a.GetPolicy() == path && !a.GetAuditOnly() }, codes.OK, codes.PermissionDenied},
		{"broken", watch + "x", func(a *guestv1.Access) bool { return a.GetPolicy() == path && strings.Contains(a.GetError(), "line 5") }, codes.OK, codes.PermissionDenied},
		{"to be tried", "audit_only = true\n" + watch, func(a *guestv1.Access) bool { return a.GetAuditOnly() && a.GetError() == "" }, codes.OK, codes.OK},
		{"stricter", "[roles.root]\npeers=['host-root']\n", func(a *guestv1.Access) bool { return !a.GetAuditOnly() }, codes.PermissionDenied, codes.PermissionDenied},
		{"gone", "", func(a *guestv1.Access) bool { return a.GetError() != "" }, codes.PermissionDenied, codes.PermissionDenied},
		{"back", watch, func(a *guestv1.Access) bool { return a.GetError() == "" }, codes.OK, codes.PermissionDenied},
	} {
		if step.text == "" {
			os.Remove(path)
		} else {
			// As a whole, as docs/security.md says.
			next := filepath.Join(dir, "next")
			if err := os.WriteFile(next, []byte(step.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(next, path); err != nil {
				t.Fatal(err)
			}
		}
		wait.For(t, "Info says "+step.name, func() bool {
			info, err := guestv1.NewAgentServiceClient(cc).Info(t.Context(), &guestv1.InfoRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return step.check(info.GetAccess())
		})
		_, err := guestv1.NewProcessServiceClient(cc).ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
		if status.Code(err) != step.sessions {
			t.Errorf("%s: sessions: %v, want %v", step.name, err, step.sessions)
		}
		_, err = guestv1.NewControlServiceClient(cc).ListHostKeys(t.Context(), &guestv1.ListHostKeysRequest{})
		if status.Code(err) != step.keys {
			t.Errorf("%s: keys: %v, want %v", step.name, err, step.keys)
		}
	}
}
