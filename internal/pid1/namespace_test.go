//go:build linux

package pid1

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What needs to be the first process runs in a copy of the test program that
// is the first one of a pid namespace of its own, with mounts, host name and
// network of its own. That needs root; without it these tests are skipped.
const scenarioEnv = "PID1_TEST_SCENARIO"

var scenarios = map[string]func(dir string) error{
	"mount":    mountScenario,
	"hostname": hostnameScenario,
	"loopback": loopbackScenario,
	"end":      endScenario,
	"poweroff": func(string) error { return reboot(PowerOff) },
	"reboot":   func(string) error { return reboot(Reboot) },
}

func TestMain(m *testing.M) {
	name := os.Getenv(scenarioEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	os.Unsetenv(scenarioEnv)
	if err := runScenario(name, os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runScenario(name, dir string) error {
	// Nothing of this may happen to the machine itself.
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return err
	}
	if os.Getpid() != 1 || st.Ino == initPIDNamespace {
		return errors.New("not in a pid namespace of its own")
	}
	if OwnsMachine() {
		return errors.New("the first process of a pid namespace takes itself for that of the machine")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	return scenarios[name](dir)
}

// first runs a scenario as the first process of new namespaces.
func first(t *testing.T, scenario string) *os.ProcessState {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", t.TempDir())
	cmd.Env = append(os.Environ(), scenarioEnv+"="+scenario)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
		t.Skipf("no namespaces here: %v", err)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "operation not permitted") {
		t.Skipf("not allowed here: %s", &out)
	}
	if cmd.ProcessState.ExitCode() > 0 {
		t.Fatalf("%s: %v\n%s", scenario, err, &out)
	}
	return cmd.ProcessState
}

func TestMount(t *testing.T)        { first(t, "mount") }
func TestSetHostname(t *testing.T)  { first(t, "hostname") }
func TestLoopbackUp(t *testing.T)   { first(t, "loopback") }
func TestEndProcesses(t *testing.T) { first(t, "end") }

// TestReboot: in a pid namespace the kernel ends its first process with a
// signal that tells which of the two it was (reboot(2)).
func TestReboot(t *testing.T) {
	for scenario, want := range map[string]syscall.Signal{"poweroff": unix.SIGINT, "reboot": unix.SIGHUP} {
		status := first(t, scenario).Sys().(syscall.WaitStatus)
		if !status.Signaled() || status.Signal() != want {
			t.Errorf("%s: ended with %v, want signal %v", scenario, status, want)
		}
	}
}

func mountScenario(dir string) error {
	// A /dev that is there is left alone: here, so that the links go into it
	// and not into the machine's.
	dev := filepath.Join(dir, "dev")
	if err := os.Mkdir(dev, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dev, "tmpfs", 0, ""); err != nil {
		return err
	}
	for range 2 { // the second time there is nothing to do
		if err := Mount(dir); err != nil {
			return err
		}
	}
	mounted, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		want := m.fstype
		if m.target == "/dev" {
			want = "tmpfs"
		}
		var types []string
		for line := range strings.Lines(string(mounted)) {
			if f := strings.Fields(line); f[1] == dir+m.target {
				types = append(types, f[2])
			}
		}
		if len(types) != 1 || types[0] != want {
			return fmt.Errorf("on %s: %q, want one %s", m.target, types, want)
		}
	}
	for _, path := range []string{"proc/self/stat", "sys/class/net/lo", "sys/fs/cgroup/cgroup.procs", "dev/pts/ptmx"} {
		if _, err := os.Stat(filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || st.Mode().Perm() != 0o777 || st.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("/tmp: %v, %v", st.Mode(), err)
	}
	if link, err := os.Readlink(filepath.Join(dir, "dev/fd")); err != nil || link != "/proc/self/fd" {
		return fmt.Errorf("/dev/fd: %q, %v", link, err)
	}
	return nil
}

func hostnameScenario(dir string) error {
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/hostname"), []byte("made-by-the-test\n"), 0o644); err != nil {
		return err
	}
	if err := SetHostname(dir); err != nil {
		return err
	}
	if name, err := os.Hostname(); name != "made-by-the-test" {
		return fmt.Errorf("host name %q, %v", name, err)
	}
	return nil
}

func loopbackScenario(string) error {
	for range 2 {
		if err := LoopbackUp(); err != nil {
			return err
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// In a new network namespace this fails before the interface is up.
	return unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 9})
}

// endScenario starts processes of which one ends at SIGTERM, one is stopped,
// and one has to be killed.
func endScenario(string) error {
	scripts := []string{
		`echo; exec sleep 1000`,
		`trap "" TERM; echo; while :; do sleep 1000; done`,
		`echo; kill -STOP $$; exec sleep 1000`,
	}
	for _, s := range scripts {
		cmd := exec.Command("sh", "-c", s)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // its trap is set
			return err
		}
	}
	if n := len(others()); n < len(scripts) {
		return fmt.Errorf("%d processes, want %d", n, len(scripts))
	}
	go func() { // somebody has to reap
		for {
			if _, err := unix.Wait4(-1, nil, 0, nil); err != nil {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	EndProcesses(300*time.Millisecond, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if pids := others(); len(pids) > 0 {
		return fmt.Errorf("still there: %v", pids)
	}
	return nil
}
