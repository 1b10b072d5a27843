//go:build linux

package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/internal/pid1"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// enterGuest as first argument makes the test program the first process of a
// made-up guest: it is started in new namespaces, makes a root directory of
// nothing but guest-agent, and becomes that.
const enterGuest = "-test-enter-guest"

// runInGuest becomes a program, with arguments, in the root directory dir.
func runInGuest(args []string) {
	err := func() error {
		if os.Getpid() != 1 || pid1.OwnsMachine() {
			return errors.New("not the first process of a pid namespace of its own")
		}
		dir, program, args := args[0], args[1], args[2:]
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return err
		}
		self, err := os.ReadFile(program)
		if err != nil {
			return err
		}
		for _, d := range []string{"dev", "etc"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
				return err
			}
		}
		// The kernel's own /dev is the machine's.
		if err := unix.Mount("tmpfs", filepath.Join(dir, "dev"), "tmpfs", 0, ""); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "dev/null"), nil, 0o666); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "etc/hostname"), []byte("made-up\n"), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "guest-agent"), self, 0o755); err != nil {
			return err
		}
		if err := unix.Chroot(dir); err != nil {
			return err
		}
		return unix.Exec("/guest-agent", append([]string{"guest-agent"}, args...), os.Environ())
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(exitUsage)
}

var built struct {
	sync.Once
	path string
	err  error
}

// build returns the path of guest-agent, built as it is released.
func build(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command")
	}
	built.Do(func() {
		var dir string
		if dir, built.err = os.MkdirTemp("", "guest-agent"); built.err != nil {
			return
		}
		built.path = filepath.Join(dir, "guest-agent")
		cmd := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", built.path, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// TestBinary: what a guest gets is small and needs nothing else.
func TestBinary(t *testing.T) {
	const maxSize = 13 << 20
	path := build(t)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.2f MiB", float64(st.Size())/(1<<20))
	if st.Size() > maxSize {
		t.Errorf("%d bytes, more than %d", st.Size(), maxSize)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			t.Error("the binary is not static")
		}
	}
}

// startGuest starts guest-agent as the first process of a made-up guest, which
// serves on /run/agent in it, and returns a path to the guest's root.
func startGuest(t *testing.T, args ...string) (p *agentProcess, root string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", append([]string{enterGuest, t.TempDir(), build(t), "--init", "--listen=unix:/run/agent"}, args...)...)
	cmd.Env = os.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
	}
	p = &agentProcess{cmd: cmd, stderr: &syncBuffer{}, exited: make(chan struct{})}
	cmd.Stderr = p.stderr
	if err := cmd.Start(); errors.Is(err, unix.EPERM) {
		t.Skipf("no namespaces here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("log of the agent:\n%s", p.stderr)
		}
	})
	root = fmt.Sprintf("/proc/%d/root", cmd.Process.Pid)
	p.sock = root + "/run/agent"
	for deadline := time.Now().Add(patience); !strings.Contains(p.stderr.String(), "msg=serving"); {
		select {
		case <-p.exited:
			if strings.Contains(p.stderr.String(), unix.EPERM.Error()) {
				t.Skipf("not allowed here: %s", p.stderr)
			}
			t.Fatalf("the guest has ended:\n%s", p.stderr)
		case <-time.After(5 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("the guest does not serve")
			}
		}
	}
	return p, root
}

func TestInit(t *testing.T) {
	p, root := startGuest(t)
	cc := dial(t, p.sock)
	info := checkServing(t, cc)
	if string(info.GetHostname()) != "made-up" {
		t.Errorf("host name %q", info.GetHostname())
	}
	for _, path := range []string{"proc/1/stat", "sys/class/net/lo", "dev/pts/ptmx", "dev/shm", "run/agent", "tmp"} {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Error(err)
		}
	}
	// The program itself is all there is to run in this guest.
	begin(t, cc, "version", "/guest-agent", "--version")
	r, err := guestv1.NewProcessServiceClient(cc).Wait(t.Context(), &guestv1.WaitRequest{SessionId: sessionID("version")})
	if err != nil || r.GetExit().Code == nil || r.GetExit().GetCode() != 0 {
		t.Errorf("a process in the guest: %v, %v", r, err)
	}
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestInitKeepsTrying: the first process of a guest does not end when it
// cannot listen.
func TestInitKeepsTrying(t *testing.T) {
	p, root := startGuest(t, "--listen=unix:/later/agent")
	if !strings.Contains(p.stderr.String(), "cannot listen; trying again") {
		t.Errorf("the log does not say that it cannot listen:\n%s", p.stderr)
	}
	checkServing(t, dial(t, p.sock))
	if err := os.Mkdir(filepath.Join(root, "later"), 0o755); err != nil {
		t.Fatal(err)
	}
	checkServing(t, dial(t, root+"/later/agent"))
}

func TestHowToEnd(t *testing.T) {
	for sig, want := range map[os.Signal]pid1.How{
		unix.SIGINT:  pid1.Reboot,
		unix.SIGTERM: pid1.PowerOff,
		unix.SIGPWR:  pid1.PowerOff,
		unix.SIGUSR1: pid1.PowerOff,
		unix.SIGUSR2: pid1.PowerOff,
	} {
		if got := howToEnd(sig); got != want {
			t.Errorf("%v: %v, want %v", sig, got, want)
		}
	}
}
