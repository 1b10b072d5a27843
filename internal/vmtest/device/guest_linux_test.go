package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/vmtest"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vsockdev"
)

const (
	agentPort = transport.AgentPort
	guestCID  = 3

	// bootLimit is how long a guest may boot, and callLimit how long what takes
	// seconds, on a busy machine.
	bootLimit = 90 * time.Second
	callLimit = 2 * time.Minute
)

// loadGuests returns how guests are booted, and skips the test outside the lab.
func loadGuests(t testing.TB) vmtest.Guests {
	t.Helper()
	if os.Getenv(vmtest.EnvLab) != "device" {
		t.Skip("needs the device lab")
	}
	data, err := os.ReadFile(os.Getenv(vmtest.EnvGuests))
	if err != nil {
		t.Fatal(err)
	}
	var g vmtest.Guests
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// A machine is a guest with its device.
type machine struct {
	boot   vmtest.Boot
	dir    string
	socket string           // vhost-user
	uds    string           // for clients of the host
	dev    *vsockdev.Device // if it is in this process

	cmd     *exec.Cmd
	ended   chan struct{} // closed when the VM has ended
	console lockedBuffer
	sdk     *guest.Guest
}

// newMachine returns a machine that is switched off. It has no device yet.
func newMachine(t testing.TB, boot vmtest.Boot) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm") // shorter than a test's own, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &machine{boot: boot, dir: dir, socket: filepath.Join(dir, "vhost"), uds: filepath.Join(dir, "uds")}
	t.Cleanup(func() {
		m.kill()
		if m.dev != nil {
			m.dev.Close()
		}
		if t.Failed() {
			t.Logf("the console of %s:\n%s", boot.Name, m.console.String())
		}
	})
	return m
}

// serveDevice has the machine's device in this process.
func (m *machine) serveDevice(t testing.TB) {
	t.Helper()
	var err error
	m.dev, err = vsockdev.New(vsockdev.Config{CID: guestCID, Dial: vsockdev.MuxDialer(m.uds), Logger: slog.New(slog.NewTextHandler(&m.console, nil))})
	if err != nil {
		t.Fatal(err)
	}
	listen := func(path string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			err = os.Chmod(path, 0o666) // another user of the host is tried too
		}
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	vhost, uds := listen(m.socket), listen(m.uds)
	go m.dev.Serve(vhost)
	go m.dev.ServeMux(uds)
}

// startKeeper has the machine's device in host-ctl vsock-device, as users have it,
// and returns the process that keeps it. It ends with the test.
func (m *machine) startKeeper(t testing.TB, program string) int {
	t.Helper()
	cmd := exec.Command(program, "vsock-device", "--cid", fmt.Sprint(guestCID), "--socket", m.socket, "--uds", m.uds)
	cmd.Stderr = &m.console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.kill()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("host-ctl vsock-device: %v", err)
		}
	})
	for deadline := time.Now().Add(callLimit); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(m.uds); err == nil {
			return cmd.Process.Pid
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// childOf returns the only child of a process, as soon as it has one.
func childOf(t testing.TB, pid int) int {
	t.Helper()
	for deadline := time.Now().Add(callLimit); time.Now().Before(deadline); {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, _ := os.ReadFile(file) // a thread may have ended
			var child int
			if _, err := fmt.Sscan(string(data), &child); err == nil {
				return child
			}
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}

// start boots the guest, and returns when its agent has answered.
func (m *machine) start(t testing.TB) (took time.Duration) {
	t.Helper()
	replace := strings.NewReplacer("{socket}", m.socket, "{dir}", m.dir)
	args := make([]string, len(m.boot.Command))
	for i, a := range m.boot.Command {
		args[i] = replace.Replace(a)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = os.Environ()
	for _, e := range m.boot.Env {
		cmd.Env = append(cmd.Env, replace.Replace(e))
	}
	cmd.Stdout, cmd.Stderr = &m.console, &m.console
	// User-mode Linux is many processes, in a group of their own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	m.cmd, m.ended = cmd, ended
	go func() {
		_ = cmd.Wait() // often killed, so its status says nothing
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	sdk, err := m.connect(ctx)
	if err != nil {
		t.Fatalf("the guest does not boot: %v", err)
	}
	m.sdk = sdk
	return time.Since(start)
}

// connect dials the agent until it answers.
func (m *machine) connect(ctx context.Context) (*guest.Guest, error) {
	var dial func(context.Context) (net.Conn, error) // nil is through the socket
	switch {
	case m.dev == nil:
	case os.Geteuid() == 0:
		dial = func(ctx context.Context) (net.Conn, error) { return m.dev.DialPrivileged(ctx, agentPort) }
	default:
		dial = func(ctx context.Context) (net.Conn, error) { return m.dev.DialContext(ctx, agentPort) }
	}
	for {
		// Until the guest's driver is there no request is answered; the first
		// that is, is refused until the agent listens.
		sdk, err := guest.Dial(ctx, m.address(), &guest.Config{Dialer: dial})
		if err == nil {
			return sdk, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-m.ended:
			return nil, errors.New("the VM ended")
		case <-ctx.Done():
			return nil, err
		}
	}
}

// address is the agent as host-ctl has it.
func (m *machine) address() string { return transport.MuxAddr(m.uds, agentPort).String() }

// signal sends a signal to the VM's process. The others of a User-mode Linux
// are its own business: it traces them, and would take the signal for theirs.
func (m *machine) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := m.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// kill switches the guest off, as a power cut would.
func (m *machine) kill() {
	if m.cmd != nil {
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
		<-m.ended
		if m.sdk != nil {
			m.sdk.Close()
		}
		m.cmd, m.sdk = nil, nil
	}
}

// run runs a command in the guest, and returns its output.
func (m *machine) run(t *testing.T, stdin io.Reader, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	cmd := m.sdk.Command(ctx, name, args...)
	cmd.Stdin = stdin
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return out
}

// helper starts the part of this program that runs in the guest, and waits until
// it serves.
func (m *machine) helper(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := m.sdk.Command(ctx, "/bin/lab.test")
	cmd.Env = []string{envHelper + "=1"}
	r, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
	})
	if _, err := io.ReadFull(r, make([]byte, len(helperReady))); err != nil {
		t.Fatalf("the helper in the guest: %v", err)
	}
	go io.Copy(io.Discard, r)
}

// dial connects to a port of the guest.
func (m *machine) dial(t *testing.T, port uint32) *vsockdev.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	c, err := m.dev.DialContext(ctx, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(callLimit)); err != nil {
		t.Fatal(err)
	}
	return c.(*vsockdev.Conn)
}

// lockedBuffer is a buffer that several may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
