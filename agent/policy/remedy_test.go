package policy

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestSuggest: the rule that a refusal proposes names who, and no more than people
// read.
func TestSuggest(t *testing.T) {
	paths := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf("/d%d/x", i))
		}
		return list
	}
	read := guestv1.FileService_Read_FullMethodName
	for name, tt := range map[string]struct {
		call  Call
		lines []string
	}{
		"nobody's name is root's number": {exec("", "id"), []string{`args = [["id"]]`, `users = ["0"]`}},
		"a group": {with(exec("app", "id"), func(c *Call) { c.Group = "adm" }),
			[]string{`args = [["id"]]`, `users = ["app"]`, `groups = ["adm"]`}},
		"limits": {with(exec("app", "id"), func(c *Call) { c.Limits = []string{"cpu"} }),
			[]string{`args = [["id"]]`, `users = ["app"]`, `limits = ["cpu"]`}},
		"a method that listens to nothing that is named": {Call{Method: "/guest.v1.ForwardService/Accept", Listen: true},
			[]string{`methods = ["ForwardService/Accept"]`}},
		"one path too many": {Call{Method: read, Files: true, Reads: paths(maxSuggested + 1)},
			[]string{`methods = ["FileService/Read"]`, `read = ["/DIRECTORY"]`}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &asked{Call: tt.call, world: world}
			a.look(&Policy{paths: true})
			if diff := cmp.Diff(tt.lines, suggest(a)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	a := &asked{Call: Call{Method: read, Files: true, Reads: paths(maxSuggested)}, world: world}
	a.look(&Policy{paths: true})
	if lines := suggest(a); slices.Contains(lines, `read = ["/DIRECTORY"]`) {
		t.Errorf("as many paths as are looked at: %q", lines)
	}
}

// TestLook: what the file says counts at once, without the interval.
func TestLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.toml")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put("")
	f := Open(path, slog.New(slog.DiscardHandler))
	call := Call{Method: guestv1.ProcessService_ListProcesses_FullMethodName}
	for _, want := range []bool{true, false, true} {
		method := map[bool]string{true: "ListProcesses", false: "Wait"}[want]
		put(fmt.Sprintf("[roles.a]\npeers = ['host-root']\n[[roles.a.allow]]\nmethods = ['ProcessService/%s']\n", method))
		f.Look()
		p, err := f.Get()
		if d := p.Decide(admin, call, world); err != nil || d.Allowed != want {
			t.Errorf("%v, %+v; want allowed: %t", err, d, want)
		}
	}
	(*File)(nil).Look()
}
