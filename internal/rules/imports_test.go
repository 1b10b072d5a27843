package rules

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/vsockrpc/vsockrpc"

// forbidden says which packages the packages below a path must not reach, not
// even through others, and why.
var forbidden = []struct {
	from string
	not  []string
	why  string
}{
	{"/transport", []string{"/rpc", "/proto", "/agent", "/guest", "/cmd"}, "transport moves bytes; it knows no messages"},
	{"/rpc", []string{"/transport", "/proto", "/agent", "/guest", "/cmd"}, "rpc runs over any net.Conn"},
	{"/proto/guest/v1", []string{"/transport", "/rpc", "/agent", "/guest", "/cmd"}, "messages depend on nothing of ours"},
	{"/guest", []string{"/agent", "/cmd"}, "a host that embeds the SDK does not carry the agent"},
	{"/guest/guesttest", []string{"/cmd"}, "it is for others' tests"},
	{"/cmd", []string{"/guest/guesttest", "/transport/vmmtest"}, "what is for tests is in no program"},
	{"/agent", []string{"/guest", "/cmd"}, "the guest's side does not know the host's"},
	{"/cmd/guest-agent", []string{"/guest", "github.com/spf13/cobra", "golang.org/x/term"}, "the agent is small"},
}

// TestDirections keeps the directions in which packages import each other;
// ARCHITECTURE.md explains them.
func TestDirections(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command")
	}
	for _, rule := range forbidden {
		t.Run(rule.from, func(t *testing.T) {
			for _, pkg := range list(t, module+rule.from+"/...") {
				// Test helpers among the packages serve both sides: guesttest has the agent.
				if strings.HasSuffix(pkg, "test") && pkg != module+rule.from {
					continue
				}
				for _, dep := range list(t, "-deps", pkg) {
					for _, not := range rule.not {
						if strings.HasPrefix(not, "/") {
							not = module + not
						}
						if dep == not || strings.HasPrefix(dep, not+"/") {
							t.Errorf("%s reaches %s, but %s", pkg, dep, rule.why)
						}
					}
				}
			}
		})
	}
}

// list returns what go list prints for args.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
	}
	return strings.Fields(string(out))
}
