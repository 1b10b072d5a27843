//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestServesStockGRPC(t *testing.T) {
	p := start(t, agentCommand(t, "--listen=unix:%s"))
	info := checkServing(t, dial(t, p.sock))
	if info.GetVersion() == "" || info.GetAgentId() == "" || info.GetOs().GetKernelName() != "Linux" {
		t.Errorf("info: %v", info)
	}
	st, err := os.Stat(p.sock)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st, err)
	}
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(p.sock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is still there: %v", err)
	}
}

func TestSeveralListeners(t *testing.T) {
	p := start(t, agentCommand(t, "--listen=unix:%s", "--listen=unix:%s2,unix:%s3"))
	id := checkServing(t, dial(t, p.sock)).GetAgentId()
	for _, n := range []string{"2", "3"} {
		if got := checkServing(t, dial(t, p.sock+n)).GetAgentId(); got != id {
			t.Errorf("another agent answers on listener %s", n)
		}
	}
}

// TestFaces: each address offers the face that it was given.
func TestFaces(t *testing.T) {
	p := start(t, agentCommand(t, "--listen=unix:%s", "--listen=unix:%s2?face=user,unix:%s3?face=control"))
	for _, tt := range []struct {
		listener          string
		sessions, hostKey codes.Code
	}{
		{"", codes.OK, codes.OK},
		{"2", codes.OK, codes.PermissionDenied},
		{"3", codes.OK, codes.OK},
	} {
		cc := dial(t, p.sock+tt.listener)
		_, err := guestv1.NewProcessServiceClient(cc).ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
		if status.Code(err) != tt.sessions {
			t.Errorf("listener %s, sessions: %v, want %v", tt.listener, err, tt.sessions)
		}
		_, err = guestv1.NewControlServiceClient(cc).ListHostKeys(t.Context(), &guestv1.ListHostKeysRequest{})
		if status.Code(err) != tt.hostKey {
			t.Errorf("listener %s, keys: %v, want %v", tt.listener, err, tt.hostKey)
		}
		_, err = guestv1.NewProcessServiceClient(cc).Remove(t.Context(), &guestv1.RemoveRequest{SessionId: make([]byte, 16)})
		if denied := status.Code(err) == codes.PermissionDenied; denied != (tt.listener == "3") {
			t.Errorf("listener %s, remove: %v", tt.listener, err)
		}
	}
}

// TestFilesRoot: the directory is / to the file service, and nothing is outside.
func TestFilesRoot(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "in"), []byte("1234567"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	p := start(t, agentCommand(t, "--listen=unix:%s", "--files-root="+root))
	files := guestv1.NewFileServiceClient(dial(t, p.sock))
	for path, want := range map[string]codes.Code{
		"/in": codes.OK, "/etc/passwd": codes.NotFound, "/out": codes.FailedPrecondition, "/../../etc/passwd": codes.FailedPrecondition,
	} {
		m, err := files.Stat(t.Context(), &guestv1.StatRequest{Path: []byte(path), Follow: true})
		if status.Code(err) != want || err == nil && m.GetFile().GetSize() != 7 {
			t.Errorf("%s: %v, %v, want %v", path, m, err, want)
		}
	}
	code, _, stderr := exitOf(t, agentCommand(t, "--listen=unix:%s", "--files-root="+root+"/none"))
	if code != exitFailure || !strings.Contains(stderr, root+"/none") {
		t.Errorf("a root that is not there: exit code %d, stderr %q", code, stderr)
	}
}

func TestServiceManager(t *testing.T) {
	cmd := agentCommand(t, "--listen=unix:%s")
	cmd.Env = append(cmd.Env, "WATCHDOG_USEC=100000")
	p := start(t, cmd)
	for range 3 {
		p.await(t, "WATCHDOG=1")
	}
	p.signal(t, syscall.SIGTERM)
	if got := p.await(t, "STOPPING=1"); !strings.Contains(got, "\nSTATUS=") {
		t.Errorf("no status in %q", got)
	}
	if code := p.wait(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestSocketActivation: the agent serves what it inherits, and nothing else.
func TestSocketActivation(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	agent := agentCommand(t)
	// LISTEN_PID has to be the agent's own.
	agent.Args = []string{"sh", "-c", "export LISTEN_PID=$$; exec /proc/" + fmt.Sprint(os.Getpid()) + "/exe"}
	if agent.Path, err = exec.LookPath("sh"); err != nil {
		t.Skip(err)
	}
	agent.ExtraFiles = []*os.File{f}
	agent.Env = append(agent.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=agent")
	p := start(t, agent)
	checkServing(t, dial(t, l.Addr().String()))
	if !strings.Contains(p.stderr.String(), "listen=unix:"+l.Addr().String()) {
		t.Errorf("the log does not say where it serves:\n%s", p.stderr)
	}
	if strings.Contains(p.stderr.String(), "vsock:") {
		t.Errorf("it listens on the default address too:\n%s", p.stderr)
	}
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(l.Addr().String()); err != nil {
		t.Errorf("the service manager's socket file is gone: %v", err)
	}
}

// TestDrain: after SIGTERM a call that is open goes on, new ones are refused.
func TestDrain(t *testing.T) {
	p := start(t, agentCommand(t, "--listen=unix:%s", "--grace=10m"))
	cc := dial(t, p.sock)
	checkServing(t, cc)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	begin(t, cc, "drain", "sh", "-c", `echo ready >"$0"; read line <"$0"; exit 7`, fifo)
	if _, err := os.ReadFile(fifo); err != nil { // the process runs
		t.Fatal(err)
	}
	stream := attach(t, cc, "drain")
	p.signal(t, syscall.SIGTERM)
	p.await(t, "STOPPING=1")
	for {
		conn, err := net.Dial("unix", p.sock)
		if err != nil {
			break // nobody listens any more
		}
		conn.Close()
	}
	if err := os.WriteFile(fifo, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if exit, err := exitOfSession(stream); err != nil || exit.GetCode() != 7 {
		t.Errorf("the open call: %v, %v", exit, err)
	}
	if code := p.wait(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestCutOff: a second signal, or the end of the grace time, ends the processes of
// the guest's sessions, of which who is attached hears, and cuts calls off.
func TestCutOff(t *testing.T) {
	for _, tt := range []struct {
		name  string
		grace string
		again bool
	}{
		{"second signal", "10m", true},
		{"end of the grace time", "10ms", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, agentCommand(t, "--listen=unix:%s", "--grace="+tt.grace))
			cc := dial(t, p.sock)
			pid := begin(t, cc, "cut", "sleep", "1000").GetPid()
			stream := attach(t, cc, "cut")
			p.signal(t, syscall.SIGTERM)
			p.await(t, "STOPPING=1")
			if tt.again {
				p.signal(t, syscall.SIGTERM)
			}
			if exit, err := exitOfSession(stream); err != nil || exit.GetReason() == "" {
				t.Errorf("the open call: %v, %v; want how the session ended, and why", exit, err)
			}
			if code := p.wait(t); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			if err := unix.Kill(int(pid), 0); !errors.Is(err, unix.ESRCH) {
				t.Errorf("the session's process outlives the agent: %v", err)
			}
		})
	}
}

// TestMustEnd: SIGTERM ends an agent that waits for something without end, here for
// somebody to read its log.
func TestMustEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd := agentCommand(t, "--listen=unix:%s", "--grace=10ms")
	cmd.Stderr = w
	p := start(t, cmd)
	// Now the log is full.
	fd := int(w.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 1))
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != exitFailure {
		t.Errorf("exit code %d", code)
	}
}

// TestHangup: what ends other programs has no effect.
func TestHangup(t *testing.T) {
	p := start(t, agentCommand(t, "--listen=unix:%s"))
	cc := dial(t, p.sock)
	id := checkServing(t, cc).GetAgentId()
	for range 3 {
		p.signal(t, syscall.SIGHUP)
		p.signal(t, syscall.SIGPIPE)
		if got := checkServing(t, cc).GetAgentId(); got != id {
			t.Error("another agent answers")
		}
	}
}

// TestSignalsOfSessions: what the agent does with signals is not inherited.
func TestSignalsOfSessions(t *testing.T) {
	p := start(t, agentCommand(t, "--listen=unix:%s"))
	cc := dial(t, p.sock)
	for _, sig := range []string{"HUP", "PIPE", "TERM", "INT"} {
		begin(t, cc, sig, "sh", "-c", "kill -"+sig+" $$; exit 3")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		r, err := guestv1.NewProcessServiceClient(cc).Wait(ctx, &guestv1.WaitRequest{SessionId: sessionID(sig)})
		cancel()
		if got, want := unix.SignalName(syscall.Signal(r.GetExit().GetSignal())), "SIG"+sig; err != nil || got != want {
			t.Errorf("%s: %v, %v", want, r, err)
		}
	}
}

func TestBadFlags(t *testing.T) {
	for _, tt := range []struct{ arg, want string }{
		{"--peer=anybody", "host-root, host or auto"},
		{"--listen=vsock://3:1000", "vsock:3:1000"},
		{"--no-such-flag", "no-such-flag"},
		{"extra", "flags only"},
	} {
		code, stdout, stderr := exitOf(t, agentCommand(t, tt.arg))
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, tt.want) || !strings.Contains(stderr, "guest-agent -h") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", tt.arg, code, stdout, stderr)
		}
	}
}

func TestBadEnvironment(t *testing.T) {
	cmd := agentCommand(t)
	cmd.Env = append(cmd.Env, "GUEST_AGENT_PEER=anybody")
	if code, _, stderr := exitOf(t, cmd); code != exitUsage || !strings.Contains(stderr, "GUEST_AGENT_PEER=anybody") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestVersionAndHelp(t *testing.T) {
	code, stdout, stderr := exitOf(t, agentCommand(t, "--version"))
	if code != exitOK || !strings.HasPrefix(stdout, "guest-agent ") || stderr != "" {
		t.Errorf("--version: exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	code, stdout, stderr = exitOf(t, agentCommand(t, "--help"))
	if code != exitOK || !strings.Contains(stdout, "usage: guest-agent") || stderr != "" {
		t.Errorf("--help: exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestAddressInUse(t *testing.T) {
	p := start(t, agentCommand(t, "--listen=unix:%s"))
	code, _, stderr := exitOf(t, agentCommand(t, "--listen=unix:"+p.sock))
	if code != exitFailure || !strings.Contains(stderr, p.sock) || !strings.Contains(stderr, "listens there already") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	checkServing(t, dial(t, p.sock))
}

// TestJournal: to the journal the log goes with priorities and without times.
func TestJournal(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(log.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand(t, "--listen=unix:%s")
	cmd.Stderr = log
	cmd.Env = append(cmd.Env, fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
	p := start(t, cmd)
	p.signal(t, syscall.SIGTERM)
	p.wait(t)
	b, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) < 2 {
		t.Errorf("log:\n%s", b)
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "<6>msg=") && !strings.HasPrefix(line, "<4>msg=") {
			t.Errorf("line %q", line)
		}
	}
}
