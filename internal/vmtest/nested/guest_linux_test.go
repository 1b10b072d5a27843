package nested

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/vmtest"
)

// loadInner returns what guests are made of, and skips the test outside the
// nested lab.
func loadInner(t *testing.T) vmtest.Inner {
	t.Helper()
	if os.Getenv(vmtest.EnvLab) != "nested" {
		t.Skip("needs the nested lab")
	}
	data, err := os.ReadFile(os.Getenv(vmtest.EnvInner))
	if err != nil {
		t.Fatal(err)
	}
	var inner vmtest.Inner
	if err := json.Unmarshal(data, &inner); err != nil {
		t.Fatal(err)
	}
	return inner
}

// A guest is a virtual machine with our agent as its init.
type guest struct {
	inner   vmtest.Inner
	console string // file
	control string // socket of QMP
	state   string // file of save
	cpu     string // as it was started
	quirks  string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when QEMU has ended
}

// newGuest returns a guest that is not yet started. At the end of the test it
// is killed, and its console is printed if the test failed.
func newGuest(t *testing.T, inner vmtest.Inner) *guest {
	dir := t.TempDir()
	g := &guest{inner: inner, console: filepath.Join(dir, "console"), control: filepath.Join(dir, "qmp"), state: filepath.Join(dir, "state")}
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			t.Logf("the guest's console:\n%s", g.messages())
		}
	})
	return g
}

// start switches the guest on. A verbose kernel takes half as long again to
// boot.
func (g *guest) start(t *testing.T, verbose bool) {
	t.Helper()
	cpu, quirks := "host", ""
	if g.inner.Accel == "tcg" {
		// The kernel would measure the rates of its clocks by a timer that is
		// too slow when emulated twice, for ever. The time stamp counter counts
		// the outer machine's nanoseconds; Debian's has 250 jiffies a second.
		cpu, quirks = "qemu64,+rdrand", " tsc_early_khz=1000000 lpj=4000000 tsc=reliable no_timer_check"
		// What the tests do not need, and slow.
		quirks += " mitigations=off cryptomgr.notests lsm= audit=0"
	}
	if !verbose {
		quirks += " loglevel=4"
	}
	g.run(t, cpu, quirks, nil)
}

// run starts QEMU: with a state to go on from, or to boot.
func (g *guest) run(t *testing.T, cpu, quirks string, state *os.File) {
	t.Helper()
	g.cpu, g.quirks = cpu, quirks
	g.cmd = exec.Command(g.inner.QEMU, "-M", "microvm,rtc=on", "-accel", g.inner.Accel, "-cpu", cpu, "-m", "256M", "-smp", "1",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "file:"+g.console,
		"-kernel", g.inner.Kernel, "-initrd", g.inner.Initrd, "-append", "console=ttyS0 panic=-1"+quirks,
		"-device", fmt.Sprintf("vhost-vsock-device,guest-cid=%d", g.inner.CID),
		"-qmp", "unix:"+g.control+",server=on,wait=off")
	if state != nil {
		g.cmd.Args = append(g.cmd.Args, "-incoming", "fd:3")
		g.cmd.ExtraFiles = []*os.File{state}
	}
	g.cmd.Stdout, g.cmd.Stderr = os.Stdout, os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, ended := g.cmd, make(chan struct{})
	g.ended = ended
	go func() {
		_ = cmd.Wait() // often killed, so its status says nothing
		close(ended)
	}()
}

// kill switches the guest off, as a power cut would.
func (g *guest) kill() {
	if g.cmd != nil {
		_ = g.cmd.Process.Kill()
		<-g.ended
	}
}

// pause stops the guest's time, resume lets it go on.
func (g *guest) pause(t *testing.T)  { g.signal(t, syscall.SIGSTOP) }
func (g *guest) resume(t *testing.T) { g.signal(t, syscall.SIGCONT) }

func (g *guest) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// waitEnd waits until the guest has powered off.
func (g *guest) waitEnd(t *testing.T, limit time.Duration) {
	t.Helper()
	select {
	case <-g.ended:
	case <-time.After(limit):
		t.Errorf("the guest is not off after %v", limit)
	}
}

// messages returns what the guest printed on its console.
func (g *guest) messages() string {
	data, err := os.ReadFile(g.console)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(data), "\r", "")
}
