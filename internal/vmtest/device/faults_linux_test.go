package device

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/transport/vsockdev"
)

// An echoing is a transfer to the guest and back that a test disturbs.
type echoing struct {
	n    int64
	done chan error
	some chan struct{} // closed when a part of it has come back
}

// startEcho starts a transfer of n bytes.
func startEcho(t *testing.T, m *machine, n int64) *echoing {
	t.Helper()
	e := &echoing{n: n, done: make(chan error, 1), some: make(chan struct{})}
	c := m.dial(t, portEcho)
	go func() {
		_, _ = io.Copy(c, pattern(n)) // what fails shows at the other end
		c.CloseWrite()
	}()
	go func() {
		got, want := make([]byte, 64<<10), make([]byte, 64<<10)
		source := pattern(n)
		for left := n; ; {
			k, err := c.Read(got)
			left -= int64(k)
			_, _ = io.ReadFull(source, want[:k])
			switch {
			case !bytes.Equal(got[:k], want[:k]):
				err = errors.New("other bytes came back")
			case err == nil && left < n-n/8 && e.some != nil:
				close(e.some)
				e.some = nil
				continue
			case err == nil:
				continue
			case errors.Is(err, io.EOF) && left == 0:
				err = nil
			default:
				err = fmt.Errorf("%d of %d bytes left: %w", left, n, err)
			}
			e.done <- err
			return
		}
	}()
	return e
}

// begun waits until a part has come back.
func (e *echoing) begun(t *testing.T, some <-chan struct{}) {
	t.Helper()
	select {
	case <-some:
	case err := <-e.done:
		t.Fatalf("the transfer ended: %v", err)
	}
}

// pause stops the guest in the middle of a transfer: nothing is lost, and new
// connections wait.
func pause(t *testing.T, m *machine) {
	m.helper(t)
	e := startEcho(t, m, int64(size(64<<20, 8<<20)))
	e.begun(t, e.some)
	m.signal(t, syscall.SIGSTOP)
	paused := time.Now()
	dialed := make(chan error, 1)
	go func() {
		c, err := m.dev.DialContext(t.Context(), portEcho)
		if err == nil {
			c.Close()
		}
		dialed <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(size(30, 2))*time.Second)
	defer cancel()
	if _, err := m.dev.DialContext(ctx, portEcho); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial of a guest that is stopped: %v", err)
	}
	m.signal(t, syscall.SIGCONT)
	t.Logf("stopped for %v", time.Since(paused).Round(time.Millisecond))
	if err := <-e.done; err != nil {
		t.Errorf("the transfer that was stopped: %v", err)
	}
	if err := <-dialed; err != nil {
		t.Errorf("dial while the guest was stopped: %v", err)
	}
}

// qmpPause has QEMU itself stop the guest, and reset it.
func qmpPause(t *testing.T, m *machine) {
	if m.boot.Name != "QEMU" {
		t.Skip("of QEMU only")
	}
	conn, err := net.Dial("unix", filepath.Join(m.dir, "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewScanner(conn)
	command := func(name string) {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "{\"execute\":%q}\n", name); err != nil {
			t.Fatal(err)
		}
		for in.Scan() {
			var answer map[string]json.RawMessage
			if err := json.Unmarshal(in.Bytes(), &answer); err != nil {
				t.Fatal(err)
			}
			if answer["return"] != nil {
				return
			}
			if answer["error"] != nil {
				t.Fatalf("%s: %s", name, in.Bytes())
			}
		}
		t.Fatalf("%s: %v", name, in.Err())
	}
	command("qmp_capabilities")
	m.helper(t)
	e := startEcho(t, m, 4<<20)
	e.begun(t, e.some)
	for range 5 {
		command("stop")
		command("cont")
	}
	if err := <-e.done; err != nil {
		t.Errorf("the transfer that was stopped: %v", err)
	}
	c := m.dial(t, portEcho)
	command("system_reset")
	if _, err := io.ReadAll(c); !errors.Is(err, vsockdev.ErrReset) {
		t.Errorf("a connection at a reset of the VM: %v, want %v", err, vsockdev.ErrReset)
	}
	m.sdk.Close()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	start := time.Now()
	if m.sdk, err = m.connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("answers %v after a reset", time.Since(start).Round(time.Millisecond))
}

// reboot has the guest boot again from inside. User-mode Linux connects anew for
// that, QEMU goes on with the same connection.
func reboot(t *testing.T, m *machine) {
	m.helper(t)
	c := m.dial(t, portEcho)
	before, err := m.sdk.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	_ = m.sdk.Command(ctx, "busybox", "reboot", "-f").Start() // the guest may be gone before it has answered
	if _, err := io.ReadAll(c); !errors.Is(err, vsockdev.ErrReset) && !errors.Is(err, vsockdev.ErrNoGuest) {
		t.Errorf("a connection at a reboot: %v", err)
	}
	m.sdk.Close()
	if m.sdk, err = m.connect(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := m.sdk.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after.GetBootId() == before.GetBootId() {
		t.Error("it is the same boot")
	}
}

// sameCID has a second VM of the same kind and CID beside the first.
func sameCID(t *testing.T, m *machine) {
	other := newMachine(t, m.boot)
	other.serveDevice(t)
	t.Logf("boot to the first answer: %v", other.start(t).Round(time.Millisecond))
	for name, vm := range map[string]*machine{"first": m, "second": other} {
		vm.run(t, nil, "sh", "-c", "echo "+name+" >/tmp/name")
	}
	for name, vm := range map[string]*machine{"first": m, "second": other} {
		if got := string(vm.run(t, nil, "cat", "/tmp/name")); got != name+"\n" {
			t.Errorf("the %s says %q", name, got)
		}
	}
}

// A counting is a command in the guest that counts, and then says what its stdin
// hashes to.
type counting struct {
	cmd   *guest.Cmd
	lines *bufio.Scanner
	sum   [32]byte
}

const countLines = 40

func startCounting(t *testing.T, m *machine) *counting {
	t.Helper()
	const n = 256 << 10
	data, _ := io.ReadAll(pattern(n))
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	t.Cleanup(cancel)
	c := &counting{sum: sha256.Sum256(data)}
	c.cmd = m.sdk.Command(ctx, "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); sleep 0.05; done; sha256sum; exit 9", countLines))
	c.cmd.Stdin = bytes.NewReader(data)
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// expect checks that the next lines are those from from on, up to to.
func (c *counting) expect(t *testing.T, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if !c.lines.Scan() || c.lines.Text() != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d is %q, %v", i, c.lines.Text(), c.lines.Err())
		}
	}
}

// rest checks that the rest comes, each byte once, and the exit code.
func (c *counting) rest(t *testing.T, from int) {
	t.Helper()
	c.expect(t, from, countLines)
	if want := fmt.Sprintf("%x  -", c.sum); !c.lines.Scan() || c.lines.Text() != want {
		t.Errorf("stdin hashes to %q in the guest, want %q", c.lines.Text(), want)
	}
	for c.lines.Scan() {
		t.Errorf("and it says %q", c.lines.Text())
	}
	var exit *guest.ExitError
	if err := c.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("the command ends with %v, want exit code 9", err)
	}
}

// lost checks that the command is said to be lost.
func (c *counting) lost(t *testing.T) {
	t.Helper()
	for c.lines.Scan() { // what came before
	}
	var e *guest.Error
	if err := c.cmd.Wait(); !errors.As(err, &e) || e.Reason != guest.ReasonSessionLost {
		t.Errorf("the command ends with %v, want that the session is lost", err)
	}
}

// pausedCount stops the guest during a command that reads and writes.
func pausedCount(t *testing.T, m *machine) {
	c := startCounting(t, m)
	c.expect(t, 0, 10)
	m.signal(t, syscall.SIGSTOP)
	time.Sleep(time.Duration(size(10, 1)) * time.Second) // the pause itself
	m.signal(t, syscall.SIGCONT)
	c.rest(t, 10)
}

// killed kills the VM during a command and a copy, and boots it again at the same
// device: the command is lost, and the copy says that another boot answers.
func killed(t *testing.T, m *machine) {
	m.helper(t)
	c := m.dial(t, portHold)
	if _, err := c.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	count := startCounting(t, m)
	count.expect(t, 0, 5)
	sdk := m.sdk // goes on by itself, with the next guest
	m.sdk = nil
	defer sdk.Close()
	source := filepath.Join(t.TempDir(), "source")
	data, _ := io.ReadAll(pattern(16 << 20))
	if err := os.WriteFile(source, data, 0o600); err != nil {
		t.Fatal(err)
	}
	begun, copied := make(chan struct{}), make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), callLimit)
		defer cancel()
		var once sync.Once
		_, err := sdk.Files().CopyTo(ctx, []string{source}, "/tmp/copied", &guest.CopyOptions{Progress: func(guest.CopyProgress) { once.Do(func() { close(begun) }) }})
		copied <- err
	}()
	select {
	case <-begun:
	case err := <-copied:
		t.Logf("the copy was over before the fault: %v", err)
		copied <- err
	}
	m.kill()
	if _, err := io.ReadAll(c); !errors.Is(err, vsockdev.ErrNoGuest) {
		t.Errorf("a connection of a VM that was killed: %v, want %v", err, vsockdev.ErrNoGuest)
	}
	if _, err := m.dev.DialContext(t.Context(), portEcho); !errors.Is(err, vsockdev.ErrNoGuest) {
		t.Errorf("dial of a VM that was killed: %v, want %v", err, vsockdev.ErrNoGuest)
	}
	t.Logf("boot to the first answer: %v", m.start(t).Round(time.Millisecond))
	count.lost(t)
	// The guest that answers now is another boot, which a copy does not go on with:
	// it is made again.
	var other *guest.Error
	if err := <-copied; err != nil && (!errors.As(err, &other) || other.Reason != guest.ReasonOtherGuest) {
		t.Errorf("the copy: %v", err)
	}
	if _, err := m.sdk.Files().CopyTo(t.Context(), []string{source}, "/tmp/copied", nil); err != nil {
		t.Errorf("the copy, again: %v", err)
	} else if got, want := string(m.run(t, nil, "sha256sum", "/tmp/copied")), fmt.Sprintf("%x  /tmp/copied\n", sha256.Sum256(data)); got != want {
		t.Errorf("the copy hashes to %q, want %q", got, want)
	}
}

// powerOff powers the guest off from inside.
func powerOff(t *testing.T, m *machine) {
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	_ = m.sdk.Command(ctx, "poweroff", "-f").Start() // the guest may be gone before it has answered
	select {
	case <-m.ended:
	case <-time.After(callLimit):
		t.Fatal("the VM does not end")
	}
	for {
		if _, err := m.dev.DialContext(ctx, agentPort); errors.Is(err, vsockdev.ErrNoGuest) {
			return
		} else if ctx.Err() != nil {
			t.Fatalf("dial of a guest that is off: %v", err)
		}
	}
}

// TestCrash kills the process of host-ctl vsock-device in the middle of a
// command: the VM does not notice, and the command goes on, each byte once.
func TestCrash(t *testing.T) {
	guests := loadGuests(t)
	for _, boot := range guests.Boots {
		t.Run(boot.Name, func(t *testing.T) {
			m := newMachine(t, boot)
			keeper := m.startKeeper(t, guests.HostCtl)
			m.start(t)
			lines := size(60, 20)
			ctx, cancel := context.WithTimeout(t.Context(), callLimit)
			defer cancel()
			cmd := m.sdk.Command(ctx, "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); sleep 0.05; done; exit 9", lines))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewScanner(out)
			for i := range lines {
				if !in.Scan() || in.Text() != fmt.Sprintf("line %d", i) {
					t.Fatalf("line %d is %q, %v", i, in.Text(), in.Err())
				}
				if i%10 == 5 {
					if err := syscall.Kill(childOf(t, keeper), syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := io.Copy(io.Discard, out); err != nil {
				t.Error(err)
			}
			var exit *guest.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 9 {
				t.Errorf("the command ends with %v, want exit code 9", err)
			}
		})
	}
}
