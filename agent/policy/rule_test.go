package policy

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// start makes a call of a request, as a caller sends it.
func start(change func(s *guestv1.SessionSpec), args ...string) Call {
	spec := &guestv1.SessionSpec{Args: byteses(args), User: []byte("app")}
	change(spec)
	return CallOf(guestv1.ProcessService_Start_FullMethodName, &guestv1.StartRequest{SessionId: []byte("s"), Spec: spec})
}

// TestHowProgramsRun: a rule that names a program fixes all that a request can say
// about how it runs, but for what it lists.
func TestHowProgramsRun(t *testing.T) {
	const strict = "[roles.a]\nkeys=['*']\n[[roles.a.allow]]\nargs=[['sh','deploy.sh']]\nusers=['app']\n"
	const listing = strict + "env=['APP_*','MODE=fast','LANGUAGE']\ndir=['/srv/app']\numask=['027']\nlimits=['memory','nofile']\n"
	for name, tt := range map[string]struct {
		change          func(s *guestv1.SessionSpec)
		strict, listing bool
	}{
		"nothing":            {func(*guestv1.SessionSpec) {}, true, true},
		"a listed directory": {func(s *guestv1.SessionSpec) { s.Dir = []byte("/srv/app") }, false, true},
		"the same, unclean":  {func(s *guestv1.SessionSpec) { s.Dir = []byte("/srv/x/../app/") }, false, true},
		"another directory":  {func(s *guestv1.SessionSpec) { s.Dir = []byte("/home/mallory") }, false, false},
		"one below it":       {func(s *guestv1.SessionSpec) { s.Dir = []byte("/srv/app/uploads") }, false, false},
		"a link":             {func(s *guestv1.SessionSpec) { s.Dir = []byte("/srv/app/link") }, false, false},
		"a relative one":     {func(s *guestv1.SessionSpec) { s.Dir = []byte("srv/app") }, false, false},
		"umask 022":          {limits(&guestv1.ResourceLimits{Umask: proto.Uint32(0o22)}), true, true},
		"a listed umask":     {limits(&guestv1.ResourceLimits{Umask: proto.Uint32(0o27)}), false, true},
		"umask 0":            {limits(&guestv1.ResourceLimits{Umask: proto.Uint32(0)}), false, false},
		"memory":             {limits(&guestv1.ResourceLimits{MemoryBytes: proto.Uint64(1)}), false, true},
		"processes":          {limits(&guestv1.ResourceLimits{Processes: proto.Uint64(1)}), false, false},
		"cpu":                {limits(&guestv1.ResourceLimits{CpuMillis: proto.Uint64(1)}), false, false},
		"nice":               {limits(&guestv1.ResourceLimits{Nice: proto.Int32(-20)}), false, false},
		"nice 0":             {limits(&guestv1.ResourceLimits{Nice: proto.Int32(0)}), false, false},
		"no new privileges":  {limits(&guestv1.ResourceLimits{NoNewPrivileges: true}), false, false},
		"capabilities":       {limits(&guestv1.ResourceLimits{DropCapabilities: []string{"CAP_SETUID"}}), false, false},
		"nofile":             {rlimit("nofile"), false, true},
		"core":               {rlimit("core"), false, false},
		"fsize after nofile": {limits(&guestv1.ResourceLimits{Rlimits: []*guestv1.Rlimit{{Name: "nofile"}, {Name: "fsize"}}}), false, false},
		"fsize first":        {limits(&guestv1.ResourceLimits{Rlimits: []*guestv1.Rlimit{{Name: "fsize"}, {Name: "nofile"}}}), false, false},
		"an empty start":     {func(s *guestv1.SessionSpec) { s.ClearEnv = true }, false, false},
		"LD_PRELOAD first":   {env("LD_PRELOAD=/x", "TERM=xterm"), false, false},
		"LD_PRELOAD last":    {env("TERM=xterm", "LD_PRELOAD=/x"), false, false},
		"LD_PRELOAD between": {env("LANG=C", "LD_PRELOAD=/x", "APP_X=1"), false, false},
		"PATH":               {env("PATH=/x"), false, false},
		"TERM":               {env("TERM=xterm-256color"), true, true},
		"TERM, a path":       {env("TERM=../../tmp/x"), false, false},
		"TERM of a terminal": {func(s *guestv1.SessionSpec) { s.Terminal = &guestv1.Terminal{Term: "/tmp/x"} }, false, false},
		"a good terminal":    {func(s *guestv1.SessionSpec) { s.Terminal = &guestv1.Terminal{Term: "screen"} }, true, true},
		"LANGUAGE":           {env("LANGUAGE=../../tmp/x"), false, true}, // listed: any value
		"LC_ALL":             {env("LC_ALL=de_DE.UTF-8"), true, true},
		"LC_ALL, a path":     {env("LC_ALL=../../tmp/x"), false, false},
		"LC_ALL, dots":       {env("LC_ALL=.."), false, false},
		"LC_ALL, a format":   {env("LC_ALL=%n%n"), false, false},
		"LC_EVIL":            {env("LC_EVIL=x"), false, false},
		"LANG, very long":    {env("LANG=" + strings.Repeat("x", 65)), false, false},
		"TZ":                 {env("TZ=UTC"), true, true},
		"TZ, a file":         {env("TZ=:/tmp/x"), false, false},
		"TZ, another file":   {env("TZ=/tmp/x"), false, false},
		"a listed pattern":   {env("APP_DIR=/anything"), false, true},
		"a listed value":     {env("MODE=fast"), false, true},
		"another value":      {env("MODE=slow"), false, false},
		"another argv[0]":    {func(s *guestv1.SessionSpec) { s.Arg0 = []byte("x") }, false, false},
		"a login shell":      {func(s *guestv1.SessionSpec) { s.LoginShell = true }, false, false},
		"another user":       {func(s *guestv1.SessionSpec) { s.User = []byte("root") }, false, false},
		"a group":            {func(s *guestv1.SessionSpec) { s.Group = []byte("adm") }, false, false},
	} {
		for text, want := range map[string]bool{strict: tt.strict, listing: tt.listing} {
			c := start(tt.change, "sh", "deploy.sh")
			d := mustParse(t, text).Decide(ci, c, world)
			if d.Allowed != want {
				t.Errorf("%s, listing %t: %+v", name, text == listing, d)
			}
			if d.Allowed && !d.NoCore {
				t.Errorf("%s: the program may write core files", name)
			}
			if d.Rule == "default deny" && c.Program && !c.LoginShell && !c.OwnName && !strings.Contains(name, "relative") && !strings.Contains(name, "link") {
				remedied(t, ci, c, d)
			}
		}
	}
	cores := mustParse(t, strict+"limits=['core']\n")
	if d := cores.Decide(ci, start(rlimit("core"), "sh", "deploy.sh"), world); !d.Allowed || d.NoCore {
		t.Errorf("cores that are listed: %+v", d)
	}
	user := mustParse(t, "[roles.a]\nkeys=['*']\n[[roles.a.allow]]\nusers=['app']\n")
	for name, tt := range map[string]struct {
		call Call
		want bool
	}{
		"its own program in its own directory": {start(func(s *guestv1.SessionSpec) { s.Dir, s.Env = []byte("/tmp"), [][]byte{[]byte("PATH=/x")} }, "x"), true},
		"more than the user has":               {start(limits(&guestv1.ResourceLimits{Nice: proto.Int32(-20)}), "x"), false},
		"a higher limit":                       {start(rlimit("memlock"), "x"), false},
	} {
		if d := user.Decide(ci, tt.call, world); d.Allowed != tt.want {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func limits(l *guestv1.ResourceLimits) func(*guestv1.SessionSpec) {
	return func(s *guestv1.SessionSpec) { s.Limits = l }
}

func rlimit(name string) func(*guestv1.SessionSpec) {
	return limits(&guestv1.ResourceLimits{Rlimits: []*guestv1.Rlimit{{Name: name, Soft: 1, Hard: 1}}})
}

func env(entries ...string) func(*guestv1.SessionSpec) {
	return func(s *guestv1.SessionSpec) { s.Env = byteses(entries) }
}

// TestSeveralPaths: every path of a request counts, wherever it stands.
func TestSeveralPaths(t *testing.T) {
	p := mustParse(t, "[roles.a]\nkeys=['*']\n[[roles.a.allow]]\nmethods=['FileService/*']\nread=['/var/log']\nwrite=['/srv/app']\n")
	download := func(paths ...string) Call {
		o := &guestv1.DownloadOpen{}
		for _, p := range paths {
			o.Sources = append(o.Sources, &guestv1.Source{Path: []byte(p)})
		}
		return fileCall("Download", &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Open{Open: o}})
	}
	rename := func(from, to string) Call {
		return fileCall("Rename", &guestv1.RenameRequest{Path: []byte(from), NewPath: []byte(to)})
	}
	upload := func(names ...string) Call {
		return fileCall("Upload", &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{Destination: []byte("/srv/app"), Names: byteses(names)}}})
	}
	for name, tt := range map[string]struct {
		call Call
		want bool
	}{
		"both inside":                 {download("/var/log/a", "/srv/app/b"), true},
		"the second outside":          {download("/var/log/a", "/etc/shadow"), false},
		"the first outside":           {download("/etc/shadow", "/var/log/a"), false},
		"the last of many outside":    {download("/var/log/a", "/var/log/b", "/var/log/c", "/etc/shadow"), false},
		"rename inside":               {rename("/srv/app/a", "/srv/app/b"), true},
		"rename to outside":           {rename("/srv/app/a", "/etc/a"), false},
		"rename from outside":         {rename("/etc/a", "/srv/app/a"), false},
		"rename from where it reads":  {rename("/var/log/a", "/srv/app/a"), false},
		"rename to where it reads":    {rename("/srv/app/a", "/var/log/a"), false},
		"upload inside":               {upload("a", "b"), true},
		"upload, the last is outside": {upload("a", "../../etc/b"), false},
		"upload, the first":           {upload("../../etc/b", "a"), false},
	} {
		if d := p.Decide(ci, tt.call, world); d.Allowed != tt.want {
			t.Errorf("%s: %+v", name, d)
		}
	}
	// A call that writes is held to where it may write.
	if d := p.Decide(ci, upload("a"), world); fmt.Sprint(d.Dirs) != "[/srv/app]" {
		t.Errorf("a call that writes is held to %v", d.Dirs)
	}
	if d := p.Decide(ci, download("/srv/app/a"), world); fmt.Sprint(d.Dirs) != "[/var/log /srv/app]" {
		t.Errorf("a call that reads is held to %v", d.Dirs)
	}
}

// TestDenied: a rule of deny in any role of the caller's wins, is about what
// contains its paths too, and about writing where reading is denied.
func TestDenied(t *testing.T) {
	p := mustParse(t, `
[roles.first]
keys = ["*"]
profile = "full"
[[roles.first.deny]]
methods = ["ProcessService/Signal"]
[roles.second]
keys = ["ci"]
[[roles.second.deny]]
methods = ["ControlService/*"]
[[roles.second.deny]]
read = ["/x/secret", "/x/linked"]
[[roles.second.deny]]
write = ["/x/kept"]
`)
	linked := world
	linked.Resolve = func(p string) (string, error) { return strings.Replace(p, "/x/linked", "/elsewhere", 1), nil }
	b := func(s string) []byte { return []byte(s) }
	for name, tt := range map[string]struct {
		call   Call
		want   bool
		denied string // what is left out
	}{
		"of the first role":            {CallOf(guestv1.ProcessService_Signal_FullMethodName, &guestv1.SignalRequest{}), false, ""},
		"of the second role":           {Call{Method: guestv1.ControlService_AddHostKey_FullMethodName}, false, ""},
		"read it":                      {fileCall("Read", &guestv1.ReadRequest{Path: b("/x/secret")}), false, ""},
		"read below it":                {fileCall("Stat", &guestv1.StatRequest{Path: b("/x/secret/y")}), false, ""},
		"write where reading is not":   {fileCall("SetAttributes", &guestv1.SetAttributesRequest{Path: b("/x/secret/y")}), false, ""},
		"read where writing is not":    {fileCall("Read", &guestv1.ReadRequest{Path: b("/x/kept/y")}), true, "[/x/secret /x/linked /elsewhere]"},
		"read where it leads":          {fileCall("Read", &guestv1.ReadRequest{Path: b("/elsewhere/y")}), false, ""},
		"read beside it":               {fileCall("Read", &guestv1.ReadRequest{Path: b("/x/secrets")}), true, "[/x/secret /x/linked /elsewhere]"},
		"download what contains it":    {fileCall("Download", &guestv1.DownloadRequest{Message: &guestv1.DownloadRequest_Open{Open: &guestv1.DownloadOpen{Sources: []*guestv1.Source{{Path: b("/x")}}}}}), true, "[/x/secret /x/linked /elsewhere]"},
		"list what contains it":        {fileCall("List", &guestv1.ListRequest{Path: b("/"), Depth: 9}), true, "[/x/secret /x/linked /elsewhere]"},
		"upload into what contains it": {fileCall("Upload", &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{Destination: b("/x"), Names: [][]byte{b("y")}}}}), true, "[/x/secret /x/linked /elsewhere /x/kept]"},
		"upload it":                    {fileCall("Upload", &guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{Destination: b("/x"), Names: [][]byte{b("y"), b("secret")}}}}), false, ""},
		"rename what contains it":      {fileCall("Rename", &guestv1.RenameRequest{Path: b("/x"), NewPath: b("/y")}), false, ""},
		"rename onto what contains it": {fileCall("Rename", &guestv1.RenameRequest{Path: b("/y"), NewPath: b("/x")}), false, ""},
		"remove what contains it":      {fileCall("RemoveFile", &guestv1.RemoveFileRequest{Path: b("/x"), Recursive: true}), false, ""},
		"remove what contains kept":    {fileCall("RemoveFile", &guestv1.RemoveFileRequest{Path: b("/"), Recursive: true}), false, ""},
		"remove it, empty":             {fileCall("RemoveFile", &guestv1.RemoveFileRequest{Path: b("/x")}), true, "[/x/secret /x/linked /elsewhere /x/kept]"},
		"link to it":                   {fileCall("MakeLink", &guestv1.MakeLinkRequest{Path: b("/y"), Target: b("x/secret")}), false, ""},
		"relative":                     {fileCall("Read", &guestv1.ReadRequest{Path: b("y")}), false, ""},
	} {
		d := p.Decide(ci, tt.call, linked)
		if d.Allowed != tt.want {
			t.Errorf("%s: %+v", name, d)
		}
		if tt.want && fmt.Sprint(d.Denied) != tt.denied {
			t.Errorf("%s: leaves out %v, want %s", name, d.Denied, tt.denied)
		}
	}
	if d := p.Decide(ci, Call{Method: "/other.v1.X/Y"}, linked); !d.Allowed {
		t.Errorf("another program's method: %+v", d)
	}
	// Nobody knows what it does.
	readOnly := mustParse(t, "read_only = true\n[roles.a]\nkeys=['*']\nprofile='full'\n")
	if d := readOnly.Decide(ci, Call{Method: "/other.v1.X/Y"}, linked); d.Allowed || d.Rule != "read_only" {
		t.Errorf("another program's method, read-only: %+v", d)
	}
}

// TestDescribe: people see how a word was read.
func TestDescribe(t *testing.T) {
	for words, want := range map[string]string{
		"connect 127.1:80":                       "may be the address 127.0.0.1",
		"connect 127.0.0.1:http":                 "the address 127.0.0.1, a port that is no number",
		"connect [::ffff:10.0.0.1]:80":           "the address 10.0.0.1, port 80",
		"connect 10.0.0.1.evil.com:80":           `the name "10.0.0.1.evil.com"`,
		"connect 999.1:80":                       "written like an address, and is none",
		"connect unix:x":                         "relative",
		"connect unix:@x":                        "abstract",
		"connect /run/../x":                      `the path "/x" of a socket`,
		"listen :80":                             "every address of the guest",
		"read /srv/app/link/x":                   `leads to "/etc/x"`,
		"read x":                                 "relative to a home",
		"exec cat ../x --o a/b":                  `which no wildcard stands for, since it has an element ..; the option "--o"; "a/b", of 2 elements`,
		"exec -e LANG=C -e LANG=../x id":         `the program "id", looked up in PATH; the variable "LANG", harmless; the variable "LANG", to be listed by env`,
		"exec ./x":                               "of a directory of the caller's choice",
		"ProcessService/Signal":                  "",
		"exec /bin/" + strings.Repeat("x", 9000): "the program",
	} {
		c, err := ParseCall(strings.Fields(words))
		if err != nil {
			t.Fatal(err)
		}
		if got := Describe(c, world); !strings.Contains(got, want) || want == "" && got != "" || len(got) > 4096 {
			t.Errorf("%.50s: %q has not %q", words, got, want)
		}
	}
}
