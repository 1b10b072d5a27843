//go:build linux

package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// The user of the guest: an unprivileged uid beside guest-agent as it is released,
// which runs as root and acts for that user.

// userEnv names what a process of the user does: the test binary, started again.
const userEnv = "HOSTILE_TEST_USER"

// someUser is one that has nothing else on this machine.
var someUser = 1<<30 + os.Getpid()

// runUser does not return in a process of the user's.
func runUser() {
	role := os.Getenv(userEnv)
	if role == "" {
		return
	}
	pid, _ := strconv.Atoi(os.Args[1])
	switch role {
	case "touch":
		threads, all := 0, map[string]bool{}
		for range 200 {
			worked, n := Touch(pid)
			threads += n
			for _, w := range worked {
				all[w] = true
			}
		}
		for w := range all {
			fmt.Println(w)
		}
		if threads < 200 {
			fmt.Println("it saw", threads, "threads")
		}
	case "end": // what would work goes through to the end
		for i := range 2000 {
			sig := []unix.Signal{unix.SIGSTOP, unix.SIGKILL}[i%2]
			tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			for _, task := range tasks {
				tid, _ := strconv.Atoi(task.Name())
				limit := unix.Rlimit{Cur: 4096, Max: 4096}
				_ = unix.Prlimit(tid, unix.RLIMIT_FSIZE, &limit, nil)
				_ = unix.Kill(tid, sig)
			}
		}
	case "stop": // everything of the user's, again and again, as long as the test lives
		parent := os.Getppid()
		fmt.Println("ready")
		for os.Getppid() == parent {
			_ = unix.Kill(-1, unix.SIGSTOP)
		}
	}
	os.Exit(0)
}

// asUser returns a command of the user's.
func asUser(t *testing.T, role string, pid int) *osexec.Cmd {
	t.Helper()
	cmd := osexec.CommandContext(t.Context(), "/proc/self/exe", strconv.Itoa(pid))
	cmd.Env = []string{userEnv + "=" + role}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(someUser), Gid: uint32(someUser)}}
	return cmd
}

var removeBuilt = func() {}

// built is guest-agent, built once for all tests; or what the environment names, to
// compare with another.
var built = sync.OnceValues(func() (string, error) {
	if name := os.Getenv("HOSTILE_GUEST_AGENT"); name != "" {
		return name, nil
	}
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		return "", err
	}
	removeBuilt = func() { os.RemoveAll(dir) }
	path := filepath.Join(dir, "guest-agent")
	out, err := osexec.Command("go", "build", "-o", path, "../../cmd/guest-agent").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// A rootAgent is guest-agent that runs as root.
type rootAgent struct {
	cmd    *osexec.Cmd
	cc     *grpc.ClientConn
	exited chan struct{}
}

// startAgent starts one, and ends it with the test. Descriptors are what it
// inherits, from 3 on.
func startAgent(t *testing.T, descriptors ...*os.File) *rootAgent {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := osexec.LookPath("go"); err != nil {
		t.Skip("no go command")
	}
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hostile") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &rootAgent{cmd: osexec.Command(path, "--listen", "unix:"+dir+"/s"), exited: make(chan struct{})}
	a.cmd.Env = append(os.Environ(), "GUEST_AGENT_STATE_DIR="+dir, "GUEST_AGENT_POLICY="+dir+"/none", "GUEST_AGENT_AUTHORIZED_HOSTS="+dir+"/none")
	a.cmd.ExtraFiles = descriptors
	var log lockedBuffer
	a.cmd.Stderr = &log
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = a.cmd.Wait()
		close(a.exited)
	}()
	t.Cleanup(func() {
		_ = a.cmd.Process.Signal(unix.SIGCONT)
		_ = a.cmd.Process.Kill()
		<-a.exited
		if t.Failed() {
			t.Logf("log of the agent:\n%s", log.String())
		}
	})
	if a.cc, err = transport.NewGRPCClient("unix:" + dir + "/s"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.cc.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := guestv1.NewAgentServiceClient(a.cc).Info(ctx, &guestv1.InfoRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	return a
}

// run runs a program as a user and returns its output.
func (a *rootAgent) run(ctx context.Context, spec *guestv1.SessionSpec) (string, error) {
	st, err := guestv1.NewProcessServiceClient(a.cc).Exec(ctx)
	if err != nil {
		return "", err
	}
	open := &guestv1.Open{SessionId: nextSession(), Window: 1 << 20, Spec: spec}
	if err := st.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: open}}); err != nil {
		return "", err
	}
	var out bytes.Buffer
	for {
		m, err := st.Recv()
		if err != nil {
			return out.String(), err
		}
		if o := m.GetOutput(); o != nil {
			out.Write(o.Data)
		}
		if e := m.GetExit(); e != nil {
			if e.Code == nil || *e.Code != 0 {
				return out.String(), fmt.Errorf("exit %v", e)
			}
			return out.String(), nil
		}
	}
}

var sessions struct {
	sync.Mutex
	n uint64
}

func nextSession() []byte {
	sessions.Lock()
	defer sessions.Unlock()
	sessions.n++
	return fmt.Appendf(nil, "%016d", sessions.n)
}

func spec(user string, words ...string) *guestv1.SessionSpec {
	s := &guestv1.SessionSpec{}
	if user != "" {
		s.User = []byte(user)
	}
	for _, w := range words {
		s.Args = append(s.Args, []byte(w))
	}
	return s
}

// work has the agent hold files open and start programs for the user, until the
// returned function is called.
func (a *rootAgent) work(t *testing.T) (stop func()) {
	t.Helper()
	user := strconv.Itoa(someUser)
	ctx, cancel := context.WithCancel(t.Context())
	files := guestv1.NewFileServiceClient(a.cc)
	for range 8 {
		st, err := files.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		o := &guestv1.OpenFile{Subject: &guestv1.Subject{User: []byte(user)}, Path: []byte("/etc/passwd"), Read: true}
		if err := st.Send(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: o}}); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := a.run(ctx, spec(user, "true"))
				if err == nil {
					_, err = files.DiskUsage(ctx, &guestv1.DiskUsageRequest{Subject: &guestv1.Subject{User: []byte(user)}, Path: []byte("/etc")})
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// serves fails the test unless the agent works as before.
func (a *rootAgent) serves(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// More than 4 KiB, which is what the user would limit it to.
	if out, err := a.run(ctx, spec("", "sh", "-c", "dd if=/dev/zero of=/tmp/$$.hostile bs=8192 count=1 2>/dev/null && rm /tmp/$$.hostile && echo ok")); err != nil || !strings.HasSuffix(out, "ok\n") {
		t.Errorf("a program of root's: %q, %v", out, err)
	}
	if _, err := a.run(ctx, spec("54999", "true")); err != nil {
		t.Errorf("a program of another user's: %v", err)
	}
}

// ends fails the test unless SIGTERM ends the agent.
func (a *rootAgent) ends(t *testing.T) {
	t.Helper()
	if err := a.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.exited:
	case <-time.After(patience):
		t.Error("SIGTERM does not end the agent")
	}
}

// TestUserTouches: the user tries everything that the kernel offers on each thread of
// the agent, while it works for the user.
func TestUserTouches(t *testing.T) {
	a := startAgent(t)
	stop := a.work(t)
	out, err := asUser(t, "touch", a.cmd.Process.Pid).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("the user got at the agent: %v\n%s", err, out)
	}
	stop()
	a.ends(t)
}

// TestUserKills: and goes through with it.
func TestUserKills(t *testing.T) {
	a := startAgent(t)
	stop := a.work(t)
	if out, err := asUser(t, "end", a.cmd.Process.Pid).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	select {
	case <-a.exited:
		t.Fatal("the user has ended the agent")
	default:
	}
	a.serves(t)
	stop()
	a.ends(t)
}

// TestUserStopsStarts: the user stops whatever is the user's, programs that are being
// started among it. Others start, and SIGTERM ends the agent.
func TestUserStopsStarts(t *testing.T) {
	a := startAgent(t)
	stopper := asUser(t, "stop", 0)
	out, err := stopper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stopper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stopper.Process.Kill()
		_ = stopper.Wait()
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			s := spec(strconv.Itoa(someUser), "true")
			s.Dir = []byte("/" + strings.Repeat("./", 2000)) // a long way gives the user time
			_, _ = guestv1.NewProcessServiceClient(a.cc).Start(ctx, &guestv1.StartRequest{SessionId: nextSession(), Spec: s})
		})
	}
	for range 10 {
		a.serves(t)
	}
	a.ends(t) // with starts that hang
	cancel()
	wg.Wait()
}

// TestUserHangs: the same with a file system that does not answer.
func TestUserHangs(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	fs, err := MountHung(dir, someUser, someUser, true)
	if err != nil {
		t.Skip(err)
	}
	defer fs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	user := strconv.Itoa(someUser)
	for _, who := range []string{user, ""} {
		for _, s := range []*guestv1.SessionSpec{spec(who, dir+"/x"), spec(who, "ls", dir), {User: []byte(who), Args: [][]byte{[]byte("true")}, Dir: []byte(dir + "/x")}} {
			wg.Go(func() { _, _ = a.run(ctx, s) })
		}
		wg.Go(func() {
			_, _ = guestv1.NewFileServiceClient(a.cc).Stat(ctx, &guestv1.StatRequest{Subject: &guestv1.Subject{User: []byte(who)}, Path: []byte(dir + "/x")})
		})
	}
	<-fs.Asked()
	for range 3 {
		a.serves(t)
	}
	// A process that has a thread in such a file system does not go away before its
	// answer. It has to have stopped by then: nothing listens, the sessions are over.
	if err := a.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "SIGTERM ends the agent", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	cancel()
	wg.Wait()
	fs.End()
	<-a.exited
}

// TestInheritedDescriptors: what the agent was started with reaches no session,
// however that is started.
func TestInheritedDescriptors(t *testing.T) {
	secret, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	a := startAgent(t, secret, secret, secret, secret, secret, secret, secret) // 3 to 9
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, terminal := range []*guestv1.Terminal{nil, {}} {
		for _, user := range []string{"", "54999"} {
			s := spec(user, "ls", "/proc/self/fd")
			s.Terminal = terminal
			out, err := a.run(ctx, s)
			// 3 is the directory that ls reads.
			if got := strings.Join(strings.Fields(out), " "); err != nil || got != "0 1 2 3" {
				t.Errorf("user %q, terminal %v: it has %q, %v", user, terminal != nil, got, err)
			}
		}
	}
	a.ends(t)
}
