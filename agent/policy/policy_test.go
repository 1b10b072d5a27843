package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const fingerprint = "SHA256:PIAUDd1cumYYGTNkbMKYTXUUXbQ6CsnLJcpgDcZWD8I"

const example = `
[roles.deploy]
keys = ["ci"]
max_time = "10m"
max_bytes = "1G"

[[roles.deploy.allow]]
methods = ["FileService/*"]
users = ["app"]
read = ["/var/log"]
write = ["/srv/app"]

[[roles.deploy.allow]]
args = [["systemctl", "restart", "app*"], ["/usr/bin/journalctl", "..."], ["uptime"]]
env = ["APP_*"]
users = ["app", "0"]
groups = ["adm"]

[[roles.deploy.allow]]
methods = ["ForwardService/*"]
dial = ["tcp:127.0.0.1:5432", "tcp:*:443", "unix:/run/app/*"]
listen = ["tcp:127.0.0.1:*"]

[roles.watch]
keys = ["` + fingerprint + `"]
peers = ["uid:1000"]
profile = "info"

[roles.admin]
peers = ["host-root"]
profile = "full"

[[roles.admin.deny]]
read = ["/etc/shadow"]
write = ["/boot"]

[[roles.admin.deny]]
methods = ["ProcessService/Remove"]

[roles.auditor]
keys = ["anna"]
profile = "full"
read_only = true
`

var (
	ci      = Caller{Fingerprint: "SHA256:x", Name: "ci"}
	watcher = Caller{Fingerprint: fingerprint}
	admin   = Caller{Peers: []string{"host-root", "cid:2"}}
	auditor = Caller{Fingerprint: "SHA256:y", Name: "anna"}
)

// world is a guest with the users app (1001) and root, and a link.
var world = World{
	UserID: func(user string) (uint32, error) {
		switch user {
		case "app", "1001":
			return 1001, nil
		case "root", "0", "":
			return 0, nil
		case "adm", "4":
			return 4, nil
		}
		return 0, errors.New("no such user")
	},
	GroupID: func(group string) (uint32, error) {
		if group == "adm" || group == "4" {
			return 4, nil
		}
		return 0, errors.New("no such group")
	},
	Resolve: throughLink,
	Dir:     throughLink,
}

func throughLink(path string) (string, error) {
	return strings.Replace(path, "/srv/app/link", "/etc", 1), nil
}

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func exec(user string, args ...string) Call {
	c := CallOf(guestv1.ProcessService_Exec_FullMethodName, &bulk.Frame{Control: &guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{
		Open: &guestv1.Open{Spec: &guestv1.SessionSpec{Args: byteses(args), User: []byte(user)}}}}})
	return c
}

func with(c Call, f func(*Call)) Call {
	f(&c)
	return c
}

func fileCall(method string, req any) Call {
	return CallOf("/guest.v1.FileService/"+method, req)
}

func TestDecide(t *testing.T) {
	app := &guestv1.Subject{User: []byte("app")}
	read := func(path string) Call {
		return fileCall("Read", &guestv1.ReadRequest{Subject: app, Path: []byte(path)})
	}
	dial := func(network, address string) Call {
		return CallOf(guestv1.ForwardService_Dial_FullMethodName, &bulk.Frame{Control: &guestv1.DialRequest{Message: &guestv1.DialRequest_Open{
			Open: &guestv1.DialOpen{Network: network, Address: []byte(address)}}}})
	}
	upload := func(dest string, names ...string) Call {
		return fileCall("Upload", &bulk.Frame{Control: &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{
			Open: &guestv1.UploadOpen{Subject: app, Destination: []byte(dest), Names: byteses(names)}}}})
	}
	open := func(path string, write bool) Call {
		return fileCall("Open", &guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: &guestv1.OpenFile{Subject: app, Path: []byte(path), Read: true, Write: write}}})
	}
	link := func(path, target string, hard bool) Call {
		return fileCall("MakeLink", &guestv1.MakeLinkRequest{Subject: app, Path: []byte(path), Target: []byte(target), Hard: hard})
	}
	method := func(m string) Call { return Call{Method: "/guest.v1." + m} }
	attach := Call{Method: guestv1.ProcessService_Attach_FullMethodName, SessionID: "s"}
	tests := []struct {
		name string
		who  Caller
		call Call
		rule string // or "" if it is refused
		text string // a part of why, if it is refused
	}{
		{"argv, by name", ci, exec("app", "uptime"), "roles.deploy.allow[1]", ""},
		{"argv, user by number", ci, exec("1001", "uptime"), "roles.deploy.allow[1]", ""},
		{"argv, the agent's own user", ci, exec("", "uptime"), "roles.deploy.allow[1]", ""},
		{"argv, another user", ci, exec("bob", "uptime"), "", `"bob" is none of its users`},
		{"argv, one more argument", ci, exec("app", "uptime", "-p"), "", "none of its patterns"},
		{"argv, any more", ci, exec("app", "/usr/bin/journalctl", "-u", "x"), "roles.deploy.allow[1]", ""},
		{"argv, glob", ci, exec("app", "systemctl", "restart", "app-web"), "roles.deploy.allow[1]", ""},
		{"argv, glob missed", ci, exec("app", "systemctl", "restart", "ssh"), "", "none of its patterns"},
		{"argv, none", ci, exec("app"), "", "none of its patterns"},
		{"another program's PATH", ci, with(exec("app", "uptime"), func(c *Call) { c.Env = []string{"PATH"} }), "", `"PATH"`},
		{"LD_PRELOAD", ci, with(exec("app", "uptime"), func(c *Call) { c.Env = []string{"LD_PRELOAD"} }), "", `"LD_PRELOAD"`},
		{"harmless and listed variables", ci, with(exec("app", "uptime"), func(c *Call) { c.Env = []string{"LC_ALL", "APP_X", "TERM"} }), "roles.deploy.allow[1]", ""},
		{"another argv[0]", ci, with(exec("app", "uptime"), func(c *Call) { c.OwnName = true }), "", "argv[0]"},
		{"login shell", ci, with(exec("app", "uptime"), func(c *Call) { c.LoginShell = true }), "", "login shell"},
		{"group", ci, with(exec("app", "uptime"), func(c *Call) { c.Group = "4" }), "roles.deploy.allow[1]", ""},
		{"another group", ci, with(exec("app", "uptime"), func(c *Call) { c.Group = "docker" }), "", `"docker"`},
		{"a foreign session", ci, attach, "", "it is about starting programs"},
		{"its own session", ci, with(attach, func(c *Call) { c.OwnSession = true }), "roles.deploy.allow[1]", ""},
		{"any process", ci, method("ProcessService/Signal"), "", "no rule"},

		{"read below a root", ci, read("/var/log/syslog"), "roles.deploy.allow[0]", ""},
		{"what may be written may be read", ci, read("/srv/app"), "roles.deploy.allow[0]", ""},
		{"a name that only begins alike", ci, read("/var/logs"), "", "below none"},
		{"dots", ci, read("/var/log/../../etc/shadow"), "", `"/etc/shadow"`},
		{"relative", ci, read("log"), "", "absolute"},
		{"through a link", ci, read("/srv/app/link/shadow"), "", `"/etc/shadow"`},
		{"upload", ci, upload("/srv/app/x", "a"), "roles.deploy.allow[0]", ""},
		{"upload elsewhere", ci, upload("/var/log"), "", "write"},
		{"upload, name with dots", ci, upload("/srv/app", "../../etc/cron.d/x"), "", `"/etc/cron.d/x"`},
		{"open to read", ci, open("/var/log/x", false), "roles.deploy.allow[0]", ""},
		{"open to write", ci, open("/var/log/x", true), "", "write"},
		{"symbolic link inside", ci, link("/srv/app/a", "b", false), "roles.deploy.allow[0]", ""},
		{"symbolic link to outside", ci, link("/srv/app/a", "/etc", false), "", `"/etc"`},
		{"symbolic link up", ci, link("/srv/app/a", "../../etc", false), "", `"/etc"`},
		{"hard link to outside", ci, link("/srv/app/a", "/etc/shadow", true), "", `"/etc/shadow"`},
		{"rename to outside", ci, fileCall("Rename", &guestv1.RenameRequest{Subject: app, Path: []byte("/srv/app/a"), NewPath: []byte("/etc/a")}), "", `"/etc/a"`},
		{"temporary file with a path", ci, fileCall("MakeTemporary", &guestv1.MakeTemporaryRequest{Subject: app, Directory: []byte("/srv/app"), Pattern: []byte("../x*")}), "", `"/srv/x*"`},
		{"files as another user", ci, fileCall("Read", &guestv1.ReadRequest{Path: []byte("/var/log/x")}), "", "agent's own"},
		{"a request that nobody can read", ci, fileCall("Read", &bulk.Frame{}), "", "could not be looked at"},

		{"dial", ci, dial("tcp", "127.0.0.1:5432"), "roles.deploy.allow[2]", ""},
		{"dial, mapped address", ci, dial("tcp6", "[::ffff:127.0.0.1]:5432"), "roles.deploy.allow[2]", ""},
		{"dial, any host", ci, dial("tcp", "Example.com.:443"), "roles.deploy.allow[2]", ""},
		{"dial, another port", ci, dial("tcp", "127.0.0.1:22"), "", "none of its destinations"},
		{"dial, udp", ci, dial("udp", "127.0.0.1:5432"), "", "none of its destinations"},
		{"dial, unix with dots", ci, dial("unix", "/run/app/../docker.sock"), "", "unix:/run/docker.sock"},
		{"listen", ci, CallOf(guestv1.ForwardService_Listen_FullMethodName, &guestv1.ListenRequest{Network: "tcp", Address: []byte("127.0.0.1:0")}), "roles.deploy.allow[2]", ""},
		{"listen elsewhere", ci, CallOf(guestv1.ForwardService_Listen_FullMethodName, &guestv1.ListenRequest{Network: "tcp", Address: []byte("0.0.0.0:80")}), "", "listen"},
		{"accept", ci, CallOf(guestv1.ForwardService_Accept_FullMethodName, &guestv1.AcceptRequest{}), "roles.deploy.allow[2]", ""},

		{"info by fingerprint", watcher, method("ProcessService/ListProcesses"), "roles.watch.profile", ""},
		{"info by uid", Caller{Peers: []string{"same-uid", "uid:1000"}}, method("ProcessService/ListProcesses"), "roles.watch.profile", ""},
		{"info has no exec", watcher, exec("", "uptime"), "", "no rule"},
		{"full", admin, method("ControlService/AddHostKey"), "roles.admin.profile", ""},
		{"full, another program's service", admin, Call{Method: "/other.v1.X/Y"}, "roles.admin.profile", ""},
		{"denied method", admin, method("ProcessService/Remove"), "", "roles.admin.deny[1]"},
		{"denied path", admin, fileCall("Read", &guestv1.ReadRequest{Path: []byte("/etc/shadow")}), "", "roles.admin.deny[0]"},
		{"denied in doubt", admin, fileCall("Read", &guestv1.ReadRequest{Path: []byte("shadow")}), "", "roles.admin.deny[0]"},
		{"denied to write", admin, fileCall("RemoveFile", &guestv1.RemoveFileRequest{Path: []byte("/boot/x")}), "", "roles.admin.deny[0]"},
		{"not denied", admin, fileCall("Read", &guestv1.ReadRequest{Path: []byte("/etc/passwd")}), "roles.admin.profile", ""},
		{"read-only reads", auditor, open("/x", false), "roles.auditor.profile", ""},
		{"read-only observes", auditor, with(attach, func(c *Call) { c.Reading = true }), "roles.auditor.profile", ""},
		{"read-only writes", auditor, open("/x", true), "", "read-only"},
		{"read-only execs", auditor, exec("", "uptime"), "", "read-only"},
		{"a key without a role", Caller{Fingerprint: "SHA256:z", Name: "zoe"}, method("ProcessService/ListProcesses"), "", "no role"},
		{"a key with a role by its line", Caller{Fingerprint: "SHA256:z", Roles: []string{"watch"}}, method("ProcessService/ListProcesses"), "roles.watch.profile", ""},
		{"a key with a profile by its line", Caller{Fingerprint: "SHA256:z", Roles: []string{"info"}}, method("ProcessService/ListProcesses"), "roles.info.profile", ""},
		{"a key with an unknown role", Caller{Fingerprint: "SHA256:z", Roles: []string{"nonsense"}}, method("ProcessService/ListProcesses"), "", "no role"},
		{"a peer that calls itself like a key", Caller{Name: "ci"}, exec("app", "uptime"), "", "no role"},
	}
	p := mustParse(t, example)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := p.Decide(tt.who, tt.call, world)
			if d.Allowed != (tt.rule != "") || d.Allowed && d.Rule != tt.rule {
				t.Fatalf("got %+v, want rule %q", d, tt.rule)
			}
			if !d.Allowed && (!strings.Contains(d.Text, tt.text) || d.Remedy == "" || d.Rule == "") {
				t.Errorf("got %+v: the text has not %q, or there is no remedy", d, tt.text)
			}
			if d.Rule == "default deny" {
				remedied(t, tt.who, tt.call, d)
			}
		})
	}
	if d := p.Decide(ci, exec("app", "uptime"), world); d.MaxTime != 10*time.Minute || d.MaxBytes != 1<<30 {
		t.Errorf("budgets %v, %d", d.MaxTime, d.MaxBytes)
	}
}

// remedied checks that what a refusal says would be needed is enough, and does
// not let the caller run just anything.
func remedied(t *testing.T, who Caller, c Call, d Decision) {
	t.Helper()
	if strings.Contains(d.Text, "read-only") || len(c.Reads) > 0 && c.Reads[0][0] != '/' {
		return // what is said to be changed is something else
	}
	// What the policy lets the caller look at already.
	a := &asked{Call: c, world: world, named: []string{"/srv/app", "/var/log"}}
	a.look(&Policy{paths: true})
	lines := suggest(a)
	if !strings.Contains(d.Remedy, strings.Join(lines, ", ")) {
		t.Errorf("remedy %q, want it to have %q", d.Remedy, lines)
	}
	p := mustParse(t, "[roles.a]\nkeys = ['*']\npeers = ['*']\n[[roles.a.allow]]\n"+strings.Join(lines, "\n"))
	if got := p.Decide(who, c, world); !got.Allowed {
		t.Errorf("with %q: %+v", lines, got)
	}
	if c.Program && len(c.Args) > 0 && !c.LoginShell && !c.OwnName {
		if got := p.Decide(who, exec(c.User, "other"), world); got.Allowed {
			t.Errorf("%q allows any program", lines)
		}
	}
}

// TestExplainItself: whoever is trusted may ask what it may do, under any policy
// that does not deny just that.
func TestExplainItself(t *testing.T) {
	ask := Call{Method: guestv1.AccessService_Explain_FullMethodName}
	for text, want := range map[string]bool{
		"":      true,
		example: true,
		"[roles.a]\nkeys=['ci']\n[[roles.a.allow]]\nargs=[['id']]":                                    true,
		"[roles.a]\nkeys=['ci']\nread_only=true\n[[roles.a.allow]]\nargs=[['id']]":                    true,
		"[roles.a]\nkeys=['ci']\nprofile='full'\n[[roles.a.deny]]\nmethods=['AccessService/Explain']": false,
	} {
		if d := mustParse(t, text).Decide(ci, ask, world); d.Allowed != want || d.WouldRefuse {
			t.Errorf("%s: %+v", text, d)
		}
	}
	var none *Policy
	if d := none.Decide(Caller{Roles: []string{"nonsense"}}, ask, world); !d.Allowed {
		t.Errorf("no policy, an unknown role: %+v", d)
	}
}

// TestEmptyRequests: every request of our services can be looked at with
// nothing in it, which lets it pass no rule about contents.
func TestEmptyRequests(t *testing.T) {
	p := mustParse(t, example)
	files := protoregistry.GlobalFiles
	n := 0
	files.RangeFilesByPackage("guest.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				m := f.Services().Get(i).Methods().Get(j)
				mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
				if err != nil {
					t.Fatal(err)
				}
				n++
				method := "/" + string(f.Services().Get(i).FullName()) + "/" + string(m.Name())
				for _, req := range []any{mt.New().Interface(), &bulk.Frame{Control: mt.New().Interface()}, nil} {
					d := p.Decide(ci, CallOf(method, req), world)
					if d.Allowed && method != guestv1.AgentService_Info_FullMethodName && method != guestv1.AccessService_Explain_FullMethodName && method != guestv1.ForwardService_Accept_FullMethodName {
						t.Errorf("%s, nothing in it: %+v", method, d)
					}
				}
			}
		}
		return true
	})
	if n < 30 {
		t.Errorf("%d methods", n)
	}
}

func TestModes(t *testing.T) {
	call := exec("", "uptime")
	if d := mustParse(t, "").Decide(admin, call, world); d.Allowed {
		t.Error("an empty policy allows something")
	}
	if d := mustParse(t, "audit_only = true").Decide(admin, call, world); !d.Allowed || !d.WouldRefuse || d.Remedy == "" {
		t.Errorf("audit-only: %+v", d)
	}
	d := mustParse(t, "read_only = true\n[roles.a]\npeers=['*']\nprofile='full'").Decide(admin, call, world)
	if d.Allowed || d.Rule != "read_only" {
		t.Errorf("read-only: %+v", d)
	}
	health := Call{Method: "/grpc.health.v1.Health/Check"}
	if d := mustParse(t, "").Decide(Caller{}, health, world); !d.Allowed {
		t.Error("a policy closes what answers everybody")
	}
	var none *Policy
	if d := none.Decide(admin, call, world); !d.Allowed {
		t.Errorf("no policy: %+v", d)
	}
	if d := none.Decide(Caller{Roles: []string{"info"}}, call, world); d.Allowed || !strings.Contains(d.Remedy, "role=ops") {
		t.Errorf("no policy, profile info: %+v", d)
	}
	if d := none.Decide(Caller{Roles: []string{"nonsense"}}, call, world); d.Allowed {
		t.Errorf("no policy, a role that it would have: %+v", d)
	}
}

func TestParseErrors(t *testing.T) {
	for _, bad := range []string{
		"x = 1", "[roles.a]\nprofile = 'root'", "[roles.a]\nkeys = ['']", "[roles.a]\npeers = ['']", "[roles.a]\nkeys = ['SHA256:x']",
		"[roles.'a b']", "[roles.ops]\nkeys=['x']", "[roles.a]\nmax_time = '5'", "[roles.a]\nmax_time = '-5s'", "[roles.a]\nmax_bytes = '1X'",
		"[roles.a]\nmax_bytes = '99999999999T'", "[[roles.a.allow]]\nmethods = ['Exec']", "[[roles.a.allow]]\nmethods = ['/a/b']", "[[roles.a.allow]]\nargs = [[]]",
		"[[roles.a.allow]]\nargs = [['a', '...', 'b']]", "[[roles.a.allow]]\nread = ['var']", "[[roles.a.allow]]\nread = ['/var/']", "[[roles.a.allow]]\ndial = ['127.0.0.1:80']",
		"[[roles.a.allow]]\nenv = ['X']", "[[roles.a.allow]]\ngroups = ['x']", "[[roles.a.deny]]\nusers=['a']\ngroups = ['x']", "[[roles.a.allow]]\nmethod = ['*']", "[roles.a", "\x00",
		"[[roles.a.deny]]\nmethods = ['ProcesService/Exec']", "[[roles.a.allow]]\nmethods = ['FileService/Raed']", "[[roles.a.allow]]\nmethods = ['/*']",
	} {
		if p, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q was taken: %+v", bad, p)
		}
	}
}

func TestParseCall(t *testing.T) {
	p := mustParse(t, example)
	for words, want := range map[string]bool{
		"exec -u app uptime": true, "exec -u bob uptime": false, "exec -u app -e PATH=/x uptime": false, "exec -u app -e TERM uptime": true,
		"exec -u app -w /tmp uptime": false, "exec -u app -l core uptime": false, "exec -u app -e TERM=../x uptime": false, "exec -u app -e APP_X=/y uptime": true,
		"exec -u app -- uptime": true, "shell -u app": false, "read -u app /var/log/x": true, "write -u app /var/log/x": false,
		"connect 127.0.0.1:5432": true, "connect udp:127.0.0.1:5432": false, "connect /run/app/x": true, "listen 127.0.0.1:8080": true,
		"ProcessService/Signal": false, "grpc.health.v1.Health/Check": true,
	} {
		c, err := ParseCall(strings.Fields(words))
		if err != nil {
			t.Errorf("%s: %v", words, err)
			continue
		}
		if d := p.Decide(ci, c, world); d.Allowed != want {
			t.Errorf("%s: %+v", words, d)
		}
		if d := p.Decide(ci, FromRequest(c.Request()), world); d.Allowed != want {
			t.Errorf("%s, asked over the wire: %+v", words, d)
		}
	}
	for _, bad := range []string{"", "frobnicate x", "exec", "exec -u", "read", "connect", "connect a b", "exec -x y z", "/x", "x/", "a/b c", "ProcessService/Exek"} {
		if c, err := ParseCall(strings.Fields(bad)); err == nil {
			t.Errorf("%q was taken: %+v", bad, c)
		}
	}
}

// TestDocumentedExamples: what docs/security.md shows as policies are some.
func TestDocumentedExamples(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for block := range strings.SplitSeq(string(data), "```toml\n") {
		if n++; n == 1 {
			continue
		}
		text, _, _ := strings.Cut(block, "```")
		if _, err := Parse([]byte(text)); err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
	}
	if n < 3 {
		t.Errorf("%d examples found", n-1)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"*", "", true}, {"*", "a/b", true}, {"a*c", "abbc", true}, {"a*c", "abb", false}, {"a?c", "abc", true}, {"a?c", "ac", false},
		{"**a", "ba", true}, {"*a*b*", "xaxbx", true}, {"*a*b*", "xbxax", false}, {"abc", "ab", false}, {"", "a", false},
		{strings.Repeat("*a", 30) + "*b", strings.Repeat("a", 5000), false},
	} {
		if got := match(tt.pattern, tt.s); got != tt.want {
			t.Errorf("%.40q, %.40q: %t", tt.pattern, tt.s, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("read_only = true\naudit_only = true")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse([]byte(text))
		if err != nil {
			return
		}
		// A policy that parses decides on everything, and who has no role may
		// nothing.
		if d := p.Decide(Caller{}, exec("app", "uptime"), world); d.Allowed && !d.WouldRefuse {
			t.Errorf("a caller with nothing was allowed: %+v", d)
		}
		p.Decide(ci, exec("app", "uptime"), world)
		p.Decide(admin, fileCall("Read", &guestv1.ReadRequest{Path: []byte("/x")}), world)
	})
}
