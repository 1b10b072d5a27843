//go:build linux

package process

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestExecStreams(t *testing.T) {
	c := newCarrier(t, nil)
	s, err := c.run(testContext(t), shell("echo out; echo err >&2; cat; exit 7"), "some input")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.out[stdout]), "out\nsome input"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got, want := string(s.out[stderr]), "err\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	e := s.exit
	if e.Code == nil || *e.Code != 7 || e.Signal != 0 || e.TimedOut || e.OutputHeldOpen || e.Reason != "" {
		t.Errorf("exit %v, want code 7 and nothing else", e)
	}
	if e.StdinBytes != 10 || e.StdoutBytes != 14 || e.StderrBytes != 4 {
		t.Errorf("carried %d, %d, %d bytes, want 10, 14, 4", e.StdinBytes, e.StdoutBytes, e.StderrBytes)
	}
	if e.EndUnixNanos < e.StartUnixNanos {
		t.Errorf("exit %v: want a span of time and memory", e)
	}
	if s.opened.Attached || s.opened.Session.Pid == 0 || s.opened.AgentId == "" {
		t.Errorf("opened %v, want a new session with a pid and the agent's id", s.opened)
	}
}

// TestCoreDumped compares with what os/exec says: whether there is a core depends
// on the machine.
func TestCoreDumped(t *testing.T) {
	c := newCarrier(t, nil)
	for _, limit := range []string{"0", "unlimited"} {
		script := "ulimit -c " + limit + " && cd '" + t.TempDir() + "' && kill -QUIT $$"
		local := exec.Command("sh", "-c", script)
		_ = local.Run()
		want := local.ProcessState.Sys().(syscall.WaitStatus)
		if !want.Signaled() {
			t.Skipf("ulimit -c %s: %v", limit, local.ProcessState)
		}
		s, err := c.run(testContext(t), shell(script), "")
		if err != nil {
			t.Fatal(err)
		}
		if s.exit.Signal != uint32(syscall.SIGQUIT) || s.exit.CoreDumped != want.CoreDump() {
			t.Errorf("ulimit -c %s: %v, want a core %v", limit, s.exit, want.CoreDump())
		}
	}
}

func TestExitCodesAndSignals(t *testing.T) {
	c := newCarrier(t, nil)
	for _, code := range []uint32{0, 1, 2, 7, 42, 125, 126, 127, 128, 254, 255} {
		s, err := c.run(testContext(t), shell(fmt.Sprintf("exit %d", code)), "")
		if err != nil {
			t.Fatal(err)
		}
		if s.exit.Code == nil || *s.exit.Code != code || s.exit.Signal != 0 {
			t.Errorf("exit %d: %v", code, s.exit)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGPIPE} {
		s, err := c.run(testContext(t), shell(fmt.Sprintf("kill -%d $$", sig)), "")
		if err != nil {
			t.Fatal(err)
		}
		if s.exit.Code != nil || s.exit.Signal != uint32(sig) {
			t.Errorf("signal %v: %v", sig, s.exit)
		}
	}
}

func TestArgumentsAreBytes(t *testing.T) {
	c := newCarrier(t, nil)
	forms := []string{
		"", " ", "a b", "line\nline", "tab\there", `"double"`, `it's`, "$HOME", "*", `back\slash`,
		"-n", "grüße", "\xff\xfe\x80 not UTF-8", "\x01\x1b[31m", strings.Repeat("x", 100<<10),
	}
	spec := helper(t, "args", forms...)
	spec.ClearEnv = true
	spec.Env = append(spec.Env, []byte("BYTES=\xff\n\xfe"), []byte("EMPTY="), []byte("EMPTY=last wins"))
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%q\n%q\n%q\n", forms, "BYTES=\xff\n\xfe", "EMPTY=last wins")
	if diff := cmp.Diff(want, string(s.out[stdout])); diff != "" {
		t.Errorf("arguments and environment (-want +got):\n%s", diff)
	}
}

func TestBaseEnvironment(t *testing.T) {
	c := newCarrier(t, &Config{Env: []string{"EXTRA=1", "LANG=C"}})
	acc, err := c.srv.accounts.Find("", "")
	if err != nil {
		t.Fatal(err)
	}
	spec := helper(t, "args")
	spec.Env = append(spec.Env, []byte("LANG=de_DE"))
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("[]\n%q\n%q\n%q\n", "PATH="+defaultPath, "HOME="+acc.Home, "SHELL="+acc.Shell)
	want += fmt.Sprintf("%q\n", markName+"="+sessionID(s.opened.Session.SessionId).String())
	if acc.Name != "" {
		want += fmt.Sprintf("%q\n%q\n", "USER="+acc.Name, "LOGNAME="+acc.Name)
	}
	want += fmt.Sprintf("%q\n%q\n", "EXTRA=1", "LANG=de_DE")
	if diff := cmp.Diff(want, string(s.out[stdout])); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	s, err = c.run(testContext(t), shell("pwd; umask"), "")
	if err != nil {
		t.Fatal(err)
	}
	home := acc.Home
	if info, err := os.Stat(home); err != nil || !info.IsDir() {
		home = "/"
	}
	if got, want := string(s.out[stdout]), home+"\n0022\n"; got != want {
		t.Errorf("directory and umask %q, want %q", got, want)
	}
}

// write makes a file for a test.
func write(t *testing.T, name, text string, mode os.FileMode) string {
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return name
}

// foreignELF is the header of a program for a machine that no guest is.
func foreignELF() string {
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_VAX), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	var b strings.Builder
	if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
		panic(err)
	}
	return b.String()
}

func TestStartFails(t *testing.T) {
	c := newCarrier(t, &Config{MaxArgBytes: 1 << 20, MaxSessions: 1000})
	plain := write(t, "plain", "text", 0o644)
	spec := func(change func(*guestv1.SessionSpec), words ...string) *guestv1.SessionSpec {
		s := &guestv1.SessionSpec{Args: args(words...)}
		if change != nil {
			change(s)
		}
		return s
	}
	env := func(e ...string) func(*guestv1.SessionSpec) {
		return func(s *guestv1.SessionSpec) { s.Env = args(e...) }
	}
	limits := func(l *guestv1.ResourceLimits) func(*guestv1.SessionSpec) {
		return func(s *guestv1.SessionSpec) { s.Limits = l }
	}
	dir := func(d string) func(*guestv1.SessionSpec) {
		return func(s *guestv1.SessionSpec) { s.Dir = []byte(d) }
	}
	big := strings.Repeat("x", 128<<10) // with its NUL one more than the kernel takes
	tests := []struct {
		name   string
		spec   *guestv1.SessionSpec
		code   codes.Code
		reason string
		path   string
		errno  syscall.Errno
	}{
		{"missing", spec(nil, "/nonexistent/program"), codes.NotFound, reasonNotFound, "/nonexistent/program", syscall.ENOENT},
		{"missing in PATH", spec(nil, "no-such-program"), codes.NotFound, reasonNotFound, "no-such-program", syscall.ENOENT},
		{"empty name", spec(nil, ""), codes.NotFound, reasonNotFound, "", syscall.ENOENT},
		{"empty PATH", spec(env("PATH="), "true"), codes.NotFound, reasonNotFound, "true", syscall.ENOENT},
		{"below a file", spec(nil, plain+"/x"), codes.NotFound, reasonNotFound, plain + "/x", syscall.ENOTDIR},
		{"not executable", spec(nil, plain), codes.FailedPrecondition, reasonNotExecutable, plain, syscall.EACCES},
		{"not executable in PATH", spec(env("PATH="+filepath.Dir(plain)), "plain"), codes.FailedPrecondition, reasonNotExecutable, plain, syscall.EACCES},
		{"a directory", spec(nil, "/tmp"), codes.FailedPrecondition, reasonNotExecutable, "/tmp", syscall.EACCES},
		{"another architecture", spec(nil, write(t, "vax", foreignELF(), 0o755)), codes.FailedPrecondition, reasonWrongArch, "*", syscall.ENOEXEC},
		{"a damaged ELF file", spec(nil, write(t, "elf", "\x7fELF", 0o755)), codes.FailedPrecondition, reasonBadFormat, "*", syscall.ENOEXEC},
		{"an empty file", spec(nil, write(t, "empty", "", 0o755)), codes.FailedPrecondition, reasonBadFormat, "*", syscall.ENOEXEC},
		{"a script without #!", spec(nil, write(t, "script", "echo hi\n", 0o755)), codes.FailedPrecondition, reasonNoInterpreter, "*", syscall.ENOEXEC},
		{"an interpreter that is missing", spec(nil, write(t, "script", "#!/no/such/sh\necho hi\n", 0o755)), codes.FailedPrecondition, reasonNoInterpreter, "*", syscall.ENOENT},
		{"Windows line ends", spec(nil, write(t, "script", "#!/bin/sh\r\necho hi\r\n", 0o755)), codes.FailedPrecondition, reasonNoInterpreter, "*", syscall.ENOENT},
		{"no such user", spec(func(s *guestv1.SessionSpec) { s.User = []byte("no-such-user") }, "true"), codes.FailedPrecondition, reasonNoUser, "no-such-user", 0},
		{"no such group", spec(func(s *guestv1.SessionSpec) { s.Group = []byte("no-such-group") }, "true"), codes.FailedPrecondition, reasonNoGroup, "no-such-group", 0},
		{"a directory that is missing", spec(dir("/no/such/dir"), "true"), codes.FailedPrecondition, reasonBadDir, "/no/such/dir", syscall.ENOENT},
		{"a directory that is a file", spec(dir(plain), "true"), codes.FailedPrecondition, reasonBadDir, plain, syscall.ENOTDIR},
		{"NUL in an argument", spec(nil, "echo", "a\x00b"), codes.InvalidArgument, reasonNul, "", 0},
		{"NUL in the environment", spec(env("A=\x00"), "true"), codes.InvalidArgument, reasonNul, "", 0},
		{"NUL in the directory", spec(dir("/\x00"), "true"), codes.InvalidArgument, reasonNul, "", 0},
		{"no arguments", spec(nil), codes.InvalidArgument, reasonBadSpec, "", 0},
		{"not NAME=value", spec(env("NAME"), "true"), codes.InvalidArgument, reasonBadSpec, "", 0},
		{"no name", spec(env("=value"), "true"), codes.InvalidArgument, reasonBadSpec, "", 0},
		{"an argument over the kernel's limit", spec(nil, "true", big), codes.InvalidArgument, reasonArgsTooLong, "*", syscall.E2BIG},
		{"an environment entry over the kernel's limit", spec(env("A="+big), "true"), codes.InvalidArgument, reasonArgsTooLong, "*", syscall.E2BIG},
		{"arguments over the agent's limit", spec(nil, append([]string{"true"}, repeat(big[:100<<10], 11)...)...), codes.InvalidArgument, reasonArgsTooLong, "", 0},
		{"too many arguments", spec(nil, repeat("x", maxArgs+1)...), codes.InvalidArgument, reasonArgsTooLong, "", 0},
		{"no such limit", spec(limits(&guestv1.ResourceLimits{Rlimits: []*guestv1.Rlimit{{Name: "x"}}}), "true"), codes.InvalidArgument, reasonBadSpec, "", 0},
		{"soft above hard", spec(limits(&guestv1.ResourceLimits{Rlimits: []*guestv1.Rlimit{{Name: "core", Soft: 2, Hard: 1}}}), "true"), codes.InvalidArgument, reasonBadSpec, "", 0},
		{"niceness out of range", spec(limits(&guestv1.ResourceLimits{Nice: new(int32(20))}), "true"), codes.InvalidArgument, reasonBadSpec, "", 0},
		{"no such capability", spec(limits(&guestv1.ResourceLimits{DropCapabilities: []string{"CAP_X"}}), "true"), codes.InvalidArgument, reasonBadSpec, "", 0},
		{"umask out of range", spec(limits(&guestv1.ResourceLimits{Umask: new(uint32(0o1777))}), "true"), codes.InvalidArgument, reasonBadSpec, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.run(testContext(t), tt.spec, "")
			st := status.Convert(err)
			if st.Code() != tt.code || reasonOf(err) != tt.reason {
				t.Fatalf("error %v (%s), want %v (%s)", err, reasonOf(err), tt.code, tt.reason)
			}
			d := st.Details()[0].(*guestv1.ErrorDetail)
			if crlf := strings.Contains(st.Message(), `"/bin/sh\r"`) && strings.Contains(d.Remedy, "sed -i"); crlf != (tt.name == "Windows line ends") {
				t.Errorf("%v, remedy %q", err, d.Remedy)
			}
			if tt.path != "*" && string(d.Path) != tt.path || syscall.Errno(d.Errno) != tt.errno {
				t.Errorf("detail %v, want path %q, errno %d", d, tt.path, tt.errno)
			}
		})
	}
	// The launcher finds the same words.
	for _, tt := range tests[:13] {
		t.Run("launcher/"+tt.name, func(t *testing.T) {
			tt.spec.Limits = &guestv1.ResourceLimits{NoNewPrivileges: true}
			_, err := c.run(testContext(t), tt.spec, "")
			if status.Code(err) != tt.code || reasonOf(err) != tt.reason {
				t.Fatalf("error %v (%s), want %v (%s)", err, reasonOf(err), tt.code, tt.reason)
			}
		})
	}
	resp, err := c.client.ListSessions(testContext(t), &guestv1.ListSessionsRequest{})
	if err != nil || len(resp.Sessions) != 0 {
		t.Errorf("sessions after all failed: %v, %v", resp, err)
	}
}

func repeat(s string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = s
	}
	return list
}

func TestArgumentsAtTheLimits(t *testing.T) {
	c := newCarrier(t, &Config{MaxArgBytes: 1 << 20})
	ctx := testContext(t)
	longest := strings.Repeat("x", 128<<10-1)
	s, err := c.run(ctx, &guestv1.SessionSpec{Args: args("sh", "-c", `echo ${#1} ${#A}`, "sh", longest), Env: args("A=" + longest[2:])}, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.out[stdout]), "131071 131069\n"; got != want {
		t.Errorf("longest argument and entry: %q, want %q", got, want)
	}
	// Exactly what the agent takes, counted with the NULs.
	fill := append([]string{"true"}, repeat(longest, 7)...)
	fill = append(fill, longest[:1<<20-len("true ")-7*len(longest+" ")-1])
	if s, err = c.run(ctx, &guestv1.SessionSpec{Args: toBytes(fill)}, ""); err != nil || s.exit.GetCode() != 0 {
		t.Errorf("arguments at the agent's limit: %v", err)
	}
	fill = append(fill, "")
	if _, err = c.run(ctx, &guestv1.SessionSpec{Args: toBytes(fill)}, ""); reasonOf(err) != reasonArgsTooLong {
		t.Errorf("arguments one byte over the agent's limit: %v", err)
	}
}

// gone waits until a process is, or is a zombie that something else reaps.
func gone(t *testing.T, pid int) {
	t.Helper()
	wait.For(t, fmt.Sprintf("process %d is gone", pid), func() bool {
		p, ok := readStat(pid)
		return !ok || p.state == "Z"
	})
}

// firstLine waits for a line of stdout and returns it.
func (s *stream) firstLine(t *testing.T) string {
	t.Helper()
	var line string
	var ok bool
	err := s.until(func() bool {
		line, _, ok = strings.Cut(string(s.out[stdout]), "\n")
		return ok
	})
	if err != nil {
		t.Fatalf("wait for a line: %v", err)
	}
	return line
}

func killRemaining(spec *guestv1.SessionSpec) *guestv1.SessionSpec {
	spec.KillRemaining = true
	return spec
}

func TestAwkwardProcesses(t *testing.T) {
	c := newCarrier(t, nil)
	tests := []struct {
		name     string
		spec     *guestv1.SessionSpec
		code     int // -1: a signal
		signal   syscall.Signal
		line     bool // its time is up once it has written a line
		time     bool // its time is up soon, wherever it is
		held     bool
		child    bool // prints the pid of a child
		survives bool // which lives on
	}{
		{name: "writes nothing", spec: &guestv1.SessionSpec{Args: args("true")}},
		{name: "ignores HUP and TERM", spec: helper(t, "stubborn"), line: true, code: -1, signal: syscall.SIGKILL},
		{name: "ends on TERM", spec: helper(t, "forever"), line: true, code: -1, signal: syscall.SIGTERM},
		{name: "takes too long", spec: shell("while :; do cat /proc/self/stat >/dev/null; done"), time: true, code: -1, signal: syscall.SIGTERM},
		{name: "answers TERM with a code", spec: shell("trap 'exit 9' TERM; echo ready; while :; do cat /dev/null; done"), line: true, code: 9},
		{name: "closes its streams", spec: helper(t, "close-stdio"), time: true, code: -1, signal: syscall.SIGTERM},
		{name: "stops itself", spec: shell("echo ready; kill -STOP $$"), line: true, code: -1, signal: syscall.SIGTERM},
		{name: "writes without end", spec: helper(t, "endless"), time: true, code: -1, signal: syscall.SIGTERM},
		{name: "daemonises", spec: helper(t, "daemon"), child: true, survives: true},
		{name: "daemonises with a second fork", spec: helper(t, "double-fork"), child: true, survives: true},
		{name: "leaves a child with the pipe", spec: helper(t, "hold"), code: 5, held: true, child: true, survives: true},
		{name: "leaves a child to be ended", spec: killRemaining(helper(t, "hold")), code: 5, held: true, child: true},
		{name: "leaves a stubborn child to be ended", spec: killRemaining(helper(t, "hold-stubborn")), code: 5, held: true, child: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.time {
				tt.spec.TimeoutMillis = 200
			}
			id := newID()
			s, err := c.exec(testContext(t), &guestv1.Open{SessionId: id, Spec: tt.spec})
			if err != nil {
				t.Fatal(err)
			}
			defer s.stop()
			if err := s.close(); err != nil {
				t.Fatal(err)
			}
			if tt.line {
				s.firstLine(t)
				ses, err := c.srv.find(t.Context(), id, "")
				if err != nil {
					t.Fatal(err)
				}
				ses.timeUp()
			}
			if err := s.finish(); err != nil {
				t.Fatal(err)
			}
			e := s.exit
			if tt.code >= 0 && (e.Code == nil || int(*e.Code) != tt.code) || tt.code < 0 && e.Code != nil || e.Signal != uint32(tt.signal) {
				t.Errorf("exit %v, want code %d, signal %d", e, tt.code, tt.signal)
			}
			if e.TimedOut != (tt.line || tt.time) || e.OutputHeldOpen != tt.held {
				t.Errorf("exit %v, want timed out %v, held open %v", e, tt.line || tt.time, tt.held)
			}
			if !tt.child {
				return
			}
			var pid int
			if _, err := fmt.Sscan(strings.ReplaceAll(string(s.out[stdout]), "ready", ""), &pid); err != nil {
				t.Fatalf("no pid: %q, %v", s.out[stdout], err)
			}
			if tt.survives {
				if p, ok := readStat(pid); !ok || p.state == "Z" {
					t.Errorf("the daemon %d was ended: %+v", pid, p)
				}
				syscall.Kill(pid, syscall.SIGKILL)
			}
			gone(t, pid)
		})
	}
}

func TestOutputBeforeExitIsComplete(t *testing.T) {
	c := newCarrier(t, nil)
	// Far more than the ring and the window, so the client has to acknowledge.
	const size = 5<<20 + 17
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: helper(t, "write", strconv.Itoa(size), "10007")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	for s.exit == nil {
		if err := s.next(); err != nil {
			t.Fatal(err)
		}
		if s.exit == nil {
			if err := s.ack(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range s.out {
		if string(s.out[i]) != string(trueBytes(i, 0, size)) {
			t.Errorf("stream %d: %d bytes, not the %d that were written", i, len(s.out[i]), size)
		}
	}
}

func TestDetachedOutputBeforeExitIsComplete(t *testing.T) {
	c := newCarrier(t, nil)
	ctx := testContext(t)
	// A full ring, and more in the pipe when the process exits, unread.
	const ring, size = 4096, 4096 + 30000
	spec := helper(t, "write-exit", strconv.Itoa(size))
	spec.RingBytes = ring
	id := newID()
	if _, err := c.client.Start(ctx, &guestv1.StartRequest{SessionId: id, Spec: spec}); err != nil {
		t.Fatal(err)
	}
	w, err := c.client.Wait(ctx, &guestv1.WaitRequest{SessionId: id})
	if err != nil {
		t.Fatal(err)
	}
	if w.Exit.GetCode() != 3 || w.Exit.StdoutBytes != size || w.Exit.OutputHeldOpen {
		t.Errorf("exit %v, want code 3 after %d bytes", w.Exit, size)
	}
	s, err := c.attach(ctx, &guestv1.Open{SessionId: id})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if string(s.out[stdout]) != string(trueBytes(stdout, 0, size)) {
		t.Errorf("%d bytes, not the %d that were written", len(s.out[stdout]), size)
	}
}

// TestNoNullDevice: an image without /dev is told as such, not as a program that is
// missing.
func TestNoNullDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "null")
	_, err := openNull(path)
	f, ok := errors.AsType[*fault](explainStart("open", err))
	if !ok {
		t.Fatalf("%v", err)
	}
	st := f.GRPCStatus()
	d := st.Details()[0].(*guestv1.ErrorDetail)
	if st.Code() != codes.FailedPrecondition || d.Reason != reasonNoNull || string(d.Path) != path || !strings.Contains(d.Remedy, "mknod") {
		t.Errorf("%v, detail %v", st, d)
	}
}
