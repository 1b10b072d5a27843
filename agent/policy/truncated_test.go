package policy

import (
	"strings"
	"testing"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestTruncatedPolicy: of a policy that was cut off anywhere, what is left is
// none, or still refuses whom it names nowhere, and gives nobody the control face
// who does not have it.
func TestTruncatedPolicy(t *testing.T) {
	control := Call{Method: guestv1.ControlService_AddHostKey_FullMethodName}
	list := Call{Method: guestv1.ProcessService_ListSessions_FullMethodName}
	stranger := Caller{Peers: []string{"cid:7"}}
	other := Caller{Fingerprint: "SHA256:other", Name: "other"}
	parsed := 0
	for n := range len(example) + 1 {
		p, err := Parse([]byte(example[:n]))
		if err != nil {
			if p != nil {
				t.Fatalf("%q: a policy beside %v", example[:n], err)
			}
			continue
		}
		parsed++
		for _, who := range []Caller{stranger, other} {
			for _, c := range []Call{control, list, exec("root", "id")} {
				if d := p.Decide(who, c, world); d.Allowed {
					t.Errorf("%q: %s by %+v is allowed by %s", example[:n], c.Method, who, d.Rule)
				}
			}
		}
		for _, who := range []Caller{ci, watcher} {
			if d := p.Decide(who, control, world); d.Allowed {
				t.Errorf("%q: control by %+v is allowed by %s", example[:n], who, d.Rule)
			}
		}
	}
	if parsed == 0 {
		t.Error("not even the whole was read")
	}
}

// TestEmptyRules: an empty row is a mistake, not leave to do everything.
func TestEmptyRules(t *testing.T) {
	for _, rule := range []string{
		"", "methods = []", "args = []", "users = []", "read = []", "dial = []",
		"methods = [\"FileService/*\"]\nread = []", "methods = [\"*\"]\nargs = []", "args = [[]]", "methods = [\"\"]",
		"methods = [\"ForwardService/*\"]\ndial = [\"\"]", "read = [\"\"]", "args = [[\"id\"]]\nenv = []", "args = [[\"id\"]]\nusers = []",
	} {
		for _, kind := range []string{"allow", "deny"} {
			text := "[roles.a]\nkeys = [\"*\"]\n[[roles.a." + kind + "]]\n" + rule + "\n"
			if p, err := Parse([]byte(text)); err == nil {
				t.Errorf("%s %q was taken: %+v", kind, rule, p.Roles["a"])
			} else if !strings.Contains(err.Error(), kind+"[0]") {
				t.Errorf("%s %q: %v does not name the rule", kind, rule, err)
			}
		}
	}
	for _, role := range []string{"", "keys = []", "peers = []", "keys = []\npeers = []", "profile = \"\""} {
		p, err := Parse([]byte("[roles.a]\n" + role + "\n"))
		if err != nil {
			t.Errorf("role %q: %v", role, err)
			continue
		}
		for _, who := range []Caller{ci, admin, {}} {
			if d := p.Decide(who, Call{Method: guestv1.ProcessService_ListSessions_FullMethodName}, world); d.Allowed {
				t.Errorf("role %q: allowed by %s", role, d.Rule)
			}
		}
	}
}
