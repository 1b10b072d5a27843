package vmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// Device is a run of the tests of package device on this machine. They boot
// guests whose vsock device is package vsockdev, in this process and without
// a privilege: nothing here dials native vsock but the guests.
type Device struct {
	Args    []string      // flags for the test binary, such as -test.v
	Timeout time.Duration // for all of it; 0 is 10 minutes
	Output  io.Writer     // what the tests print
}

// EnvGuests is the environment variable with the name of the [Guests] file.
const EnvGuests = "VSOCKRPC_LAB_GUESTS"

// Guests is what the tests of package device need; a JSON file.
type Guests struct {
	HostCtl string // program
	Agent   string // guest-agent, for comparisons
	Boots   []Boot
}

// A Boot is a way to boot a guest that has guest-agent as init and busybox.
type Boot struct {
	Name string // "UML" or "QEMU"

	// Command starts the guest. In it, {socket} is the vhost-user socket of its
	// device and {dir} a directory of its own, where console and qmp are, as
	// far as it has them.
	Command []string
	Env     []string // besides this process's own
}

const deviceTests = "github.com/vsockrpc/vsockrpc/internal/vmtest/device"

// deviceMemory is the memory of a guest in bytes.
const deviceMemory = 768 << 20

// Run prepares the guests and runs the tests. It returns an error if a test
// fails, and one that is [ErrUnavailable] if no guest can be had here.
func (d *Device) Run(ctx context.Context) error {
	timeout := d.Timeout
	if timeout == 0 {
		timeout = 10 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the device lab did not end within %v", timeout))
	defer cancel()
	if err := need(ctx, "busybox", "busybox-static"); err != nil {
		return err
	}
	dir, err := workDir("device")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // another user runs host-ctl too
		return err
	}
	for _, pkg := range []string{hostCtl, guestAgent} {
		if err := buildProgram(ctx, filepath.Join(dir, filepath.Base(pkg)), pkg); err != nil {
			return err
		}
	}
	runs, err := buildTests(ctx, dir, []string{deviceTests}, d.Args, timeout)
	if err != nil {
		return err
	}
	guests := Guests{HostCtl: filepath.Join(dir, "host-ctl"), Agent: filepath.Join(dir, "guest-agent")}
	var missing []error
	for _, prepare := range []func(context.Context, string, string) (Boot, error){bootUML, bootQEMU} {
		b, err := prepare(ctx, dir, runs[0].Path)
		switch {
		case errors.Is(err, ErrUnavailable):
			fmt.Fprintln(d.Output, "SKIP: a guest:", err)
			missing = append(missing, err)
		case err != nil:
			return err
		default:
			guests.Boots = append(guests.Boots, b)
		}
	}
	if len(guests.Boots) == 0 {
		return errors.Join(missing...)
	}
	data, err := json.Marshal(guests)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "guests.json")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return err
	}
	return runHere(ctx, dir, runs[0], []string{EnvLab + "=device", EnvGuests + "=" + file}, d.Output)
}

// guestArgs are words of the guest's kernel command line.
func guestArgs() string {
	if os.Geteuid() != 0 {
		return " guest-agent.peer=host" // who runs the tests is not root, and to be trusted
	}
	return ""
}

// bootUML returns how to boot a User-mode Linux.
func bootUML(ctx context.Context, dir, tests string) (Boot, error) {
	if runtime.GOOS != "linux" {
		return Boot{}, fmt.Errorf("%w: User-mode Linux needs Linux", ErrUnavailable)
	}
	if err := need(ctx, "linux.uml", "user-mode-linux"); err != nil {
		return Boot{}, err
	}
	program, err := exec.LookPath("linux.uml")
	if err != nil {
		return Boot{}, err
	}
	modules, err := findModules("/usr/lib/uml/modules", innerModules)
	if err != nil {
		return Boot{}, err
	}
	initrd := filepath.Join(dir, "uml.cpio")
	if err := writeGuest(initrd, filepath.Join(dir, "guest-agent"), tests, modules); err != nil {
		return Boot{}, err
	}
	b := Boot{Name: "UML", Command: []string{program, fmt.Sprintf("mem=%d", deviceMemory), "initrd=" + initrd, "con=null", "con0=null,fd:1",
		"quiet", "panic=-1", "virtio_uml.device={socket}:19"}}
	if args := guestArgs(); args != "" {
		b.Command = append(b.Command, args[1:])
	}
	if !canHoldMemory("/dev/shm", deviceMemory) {
		b.Env = []string{"TMPDIR={dir}"}
	}
	return b, nil
}

// bootQEMU returns how to boot a stock kernel in QEMU, emulated.
func bootQEMU(ctx context.Context, dir, tests string) (Boot, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return Boot{}, fmt.Errorf("%w: the guest in QEMU is for linux/amd64", ErrUnavailable)
	}
	if err := need(ctx, "qemu-system-x86_64", "qemu-system-x86"); err != nil {
		return Boot{}, err
	}
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return Boot{}, err
	}
	k, err := findKernel(ctx)
	if err != nil {
		return Boot{}, err
	}
	modules, err := k.modules(innerModules)
	if err != nil {
		return Boot{}, err
	}
	initrd := filepath.Join(dir, "qemu.cpio")
	if err := writeGuest(initrd, filepath.Join(dir, "guest-agent"), tests, modules); err != nil {
		return Boot{}, err
	}
	size := fmt.Sprintf("%dM", deviceMemory>>20)
	return Boot{Name: "QEMU", Command: []string{program, "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", size, "-smp", "1",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-object", "memory-backend-memfd,id=mem,size=" + size + ",share=on", "-numa", "node,memdev=mem",
		"-chardev", "socket,id=vhost,path={socket}", "-device", "vhost-user-vsock-pci,chardev=vhost",
		"-qmp", "unix:{dir}/qmp,server=on,wait=off",
		"-kernel", k.image(), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests" + guestArgs()}}, nil
}

// runHere runs a test binary on this machine.
func runHere(ctx context.Context, dir string, run Run, env []string, output io.Writer) error {
	cmd := exec.CommandContext(ctx, run.Path, run.Args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w", run.Name, err)
	}
	return nil
}
