package guest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

func TestSessionID(t *testing.T) {
	id := NewSessionID()
	if id.IsZero() || id == NewSessionID() {
		t.Error("an id is not random")
	}
	back, err := ParseSessionID(id.String())
	if err != nil || back != id {
		t.Errorf("ParseSessionID(%s) = %v, %v", id, back, err)
	}
	for _, s := range []string{"", "s", "s12", strings.Repeat("0", 32), "s" + strings.Repeat("g", 32), "s" + strings.Repeat("0", 34)} {
		if _, err := ParseSessionID(s); err == nil {
			t.Errorf("%q is taken for an id", s)
		}
	}
	if _, err := SessionIDFromBytes(make([]byte, 15)); err == nil {
		t.Error("15 bytes are taken for an id")
	}
}

func TestParseSignal(t *testing.T) {
	tests := []struct {
		in   string
		want Signal
		name string
	}{
		{"TERM", 15, "SIGTERM"}, {"SIGTERM", 15, "SIGTERM"}, {"sigusr1", 10, "SIGUSR1"}, {"9", 9, "SIGKILL"}, {"0", 0, "signal 0"},
		{"RTMIN", 34, "signal 34"}, {"SIGRTMIN+3", 37, "signal 37"}, {"64", 64, "signal 64"},
	}
	for _, tt := range tests {
		if got, err := ParseSignal(tt.in); got != tt.want || err != nil || got.Name() != tt.name {
			t.Errorf("ParseSignal(%q) = %d (%s), %v", tt.in, got, got.Name(), err)
		}
	}
	for _, in := range []string{"", "65", "-1", "SIG", "NOPE", "RTMIN-1", "RTMIN+99", "RTMIN+"} {
		if got, err := ParseSignal(in); err == nil {
			t.Errorf("ParseSignal(%q) = %d", in, got)
		}
	}
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL, os.Interrupt} {
		if n, err := guestSignal(sig); err != nil || n.String() != sig.String() {
			t.Errorf("guestSignal(%v) = %v, %v", sig, n, err)
		}
	}
	if _, err := guestSignal(Signal(65)); err == nil {
		t.Error("signal 65 is taken")
	}
}

func TestResolve(t *testing.T) {
	file, err := ParseConfigFile(`
user = "deploy"
port = 2000
[guests.web]
target = "vsock:5"
[guests.fc]
target = "vsock-mux:/run/fc.sock:1000"
user = "root"
[guests.seven]
target = "7"
port = 3000
[guests.eight]
target = 8
`)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		target string
		want   transport.Addr
		user   string
	}{
		{"3", transport.VsockAddr(3, 1000), ""},
		{"vsock:3", transport.VsockAddr(3, 1000), ""},
		{"vsock:3:77", transport.VsockAddr(3, 77), ""},
		{"unix:/a:b", transport.UnixAddr("/a:b"), ""},
		{"vsock-mux:/a:5", transport.MuxAddr("/a", 5), ""},
		{"web", transport.VsockAddr(5, 2000), "deploy"},
		{"fc", transport.MuxAddr("/run/fc.sock", 1000), "root"},
		{"seven", transport.VsockAddr(7, 3000), "deploy"},
		{"eight", transport.VsockAddr(8, 2000), "deploy"},
		{"alice@web", transport.VsockAddr(5, 2000), "alice"},
		{"alice@3", transport.VsockAddr(3, 1000), "alice"},
		{"alice@unix:/a@b", transport.UnixAddr("/a@b"), "alice"},
		{"unix:/a@b", transport.UnixAddr("/a@b"), ""},
	}
	for _, tt := range tests {
		addr, user, err := Resolve(tt.target, file)
		if addr != tt.want || user != tt.user || err != nil {
			t.Errorf("Resolve(%q) = %v, %q, %v, want %v, %q", tt.target, addr, user, err, tt.want, tt.user)
		}
	}
	for _, target := range []string{"", "0", "99999999999", "nobody", "local", "vsock:any", "vsock:3:any", "tcp:1:2", "-x", "web web", "@web", "alice@", "alice@nobody"} {
		if addr, _, err := Resolve(target, file); err == nil {
			t.Errorf("Resolve(%q) = %v", target, addr)
		}
	}
	if _, err := Dial(t.Context(), "nobody", &Config{File: file}); !isReason(err, ReasonBadTarget) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := Dial(t.Context(), "3", &Config{Wire: "pigeon"}); !isReason(err, ReasonBadTarget) {
		t.Errorf("Dial: %v", err)
	}
}

func TestDidYouMean(t *testing.T) {
	names := []string{"web", "web2", "database", "db"}
	for name, want := range map[string]string{
		"databse": "did you mean database? Else ", "WEB": "did you mean web or web2? Else ",
		"wbe": "did you mean web or web2? Else ", "dc": "did you mean db? Else ", "mail": "", "": "",
	} {
		if got := didYouMean(name, names); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func isReason(err error, reason string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == reason
}

func TestParseConfigFileErrors(t *testing.T) {
	for text, want := range map[string]string{
		"colour = 1": "line 1: unknown key colour",
		"[guests.a]\ntarget = \"3\"\nusr = \"x\"":    "line 3: unknown key guests.a.usr",
		"[guests]\na = { target = \"3\", prt = 4 }":  "unknown key guests.a.prt",
		"[guests.a]\nuser = \"x\"":                   "line 1: guest a has no target",
		"[guests.a]\ntarget = \"nope\"":              "line 1: guest a: ",
		"[guests.a]\ntarget = \"unix:/x\"\nport = 9": "does not go with it",
		"[guests.5]\ntarget = \"3\"":                 "a number is a CID",
		"[guests.local]\ntarget = \"3\"":             "embedded guest",
		"[guests.\"a b\"]\ntarget = \"3\"":           "guest name \"a b\"",
		"[guests.a]\ntarget = 3.5":                   "a target is a text, or a CID",
		"[guests.a]\ntarget = -3":                    "guest a",
		"user = \"a\"\nuser = \"b\"":                 "line 2: ",
	} {
		if _, err := ParseConfigFile(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseConfigFile(%q): %v, want %q", text, err, want)
		}
	}
}

func TestReadConfigFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	if f, err := ReadConfigFile(""); err != nil || len(f.Guests) != 0 {
		t.Errorf("without a file: %v, %v", f, err)
	}
	path, err := DefaultConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	os.MkdirAll(filepath.Dir(path), 0o755)
	os.WriteFile(path, []byte("[guests.a]\ntarget = \"3\"\n"), 0o644)
	if addr, _, err := Resolve("a", nil); err != nil || addr.CID != 3 {
		t.Errorf("Resolve: %v, %v", addr, err)
	}
	// Guests of all users: the user's own come first.
	systemFile = filepath.Join(dir, "system.toml")
	defer func() { systemFile = "/etc/host-ctl/config.toml" }()
	os.WriteFile(systemFile, []byte("user = \"svc\"\nport = 7\n[guests.a]\ntarget = \"9\"\n[guests.b]\ntarget = \"4\"\n"), 0o644)
	if addr, user, err := Resolve("b", nil); err != nil || addr != transport.VsockAddr(4, 7) || user != "svc" {
		t.Errorf("Resolve: %v, %q, %v", addr, user, err)
	}
	if addr, _, err := Resolve("a", nil); err != nil || addr != transport.VsockAddr(3, 1000) {
		t.Errorf("Resolve: %v, %v", addr, err)
	}
	os.Remove(path)
	if f, err := ReadConfigFile(""); err != nil || len(f.Guests) != 2 {
		t.Errorf("without a file of the user's own: %v, %v", f, err)
	}
	os.WriteFile(systemFile, []byte("nonsense"), 0o644)
	if _, err := ReadConfigFile(""); err == nil || !strings.Contains(err.Error(), systemFile) {
		t.Errorf("ReadFile: %v, want one that names %s", err, systemFile)
	}
	os.Remove(systemFile)
	os.WriteFile(path, []byte("x = 1\n"), 0o644)
	if _, err := ReadConfigFile(""); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("ReadConfigFile: %v, want one that names %s", err, path)
	}
	if _, err := ReadConfigFile(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was asked for is missing: %v", err)
	}
}

func TestErrorIs(t *testing.T) {
	tests := []struct {
		err  *Error
		is   []error
		isNo []error
	}{
		{&Error{Reason: "not-found", Path: []byte("x")}, []error{exec.ErrNotFound, fs.ErrNotExist}, []error{fs.ErrPermission}},
		{&Error{Reason: "not-found", Path: []byte("/x"), Errno: linuxENOENT}, []error{fs.ErrNotExist}, []error{exec.ErrNotFound}},
		{&Error{Reason: "not-executable", Errno: linuxEACCES}, []error{fs.ErrPermission}, []error{fs.ErrNotExist}},
		{&Error{Errno: linuxEEXIST}, []error{fs.ErrExist}, []error{fs.ErrNotExist}},
		{&Error{Code: codes.DeadlineExceeded}, []error{context.DeadlineExceeded, os.ErrDeadlineExceeded}, []error{context.Canceled}},
		{&Error{Code: codes.Canceled, Reason: ReasonCanceled}, []error{context.Canceled}, []error{context.DeadlineExceeded}},
		{&Error{Code: codes.Canceled, Reason: ReasonLeft}, nil, []error{context.Canceled}},
	}
	for _, tt := range tests {
		for _, target := range tt.is {
			if !errors.Is(tt.err, target) {
				t.Errorf("%+v is not %v", tt.err, target)
			}
		}
		for _, target := range tt.isNo {
			if errors.Is(tt.err, target) {
				t.Errorf("%+v is %v", tt.err, target)
			}
		}
	}
}

func TestProcessState(t *testing.T) {
	tests := []struct {
		exit *guestv1.Exit
		want string
		code int
	}{
		{&guestv1.Exit{Code: proto.Uint32(0)}, "exit status 0", 0},
		{&guestv1.Exit{Code: proto.Uint32(7)}, "exit status 7", 7},
		{&guestv1.Exit{Signal: 15}, "signal: terminated", -1},
		{&guestv1.Exit{Signal: 11, CoreDumped: true}, "signal: segmentation fault (core dumped)", -1},
		{&guestv1.Exit{Signal: 9, TimedOut: true}, "signal: killed (timed out)", -1},
		{&guestv1.Exit{Signal: 9, OomKilled: true}, "signal: killed (out of memory)", -1},
	}
	for _, tt := range tests {
		p := &ProcessState{exit: tt.exit}
		if p.String() != tt.want || p.ExitCode() != tt.code || p.Success() != (tt.code == 0) || p.Exited() != (tt.code >= 0) {
			t.Errorf("%v: %q, code %d", tt.exit, p, p.ExitCode())
		}
	}
	huge := &ProcessState{exit: &guestv1.Exit{Usage: &guestv1.ResourceUsage{UserMicros: 1 << 63, SystemMicros: 5}}}
	if huge.UserTime() < 0 || huge.SystemTime() != 5*time.Microsecond {
		t.Errorf("times %v, %v", huge.UserTime(), huge.SystemTime())
	}
	if (*ProcessState)(nil).ExitCode() != -1 || (*ProcessState)(nil).String() != "<nil>" {
		t.Error("a nil state has an exit code")
	}
}
