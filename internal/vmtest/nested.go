package vmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Nested is a run of the test binary of package nested, which is the host of
// guests that run our agent as their init.
//
// It runs in an emulated outer machine, whose kernel has vhost_vsock; or here,
// where that is possible: see canHost.
type Nested struct {
	Args    []string      // flags for the test binary, such as -test.v
	Timeout time.Duration // for the boot and all tests; 0 is 30 minutes
	Output  io.Writer     // what the tests print
	Emulate bool          // use the outer machine even where it is not needed
}

// EnvInner is the environment variable with the name of the [Inner] file.
const EnvInner = "VSOCKRPC_LAB_INNER"

// Inner is what the tests of package nested need to boot a guest; a JSON file.
type Inner struct {
	QEMU    string // program
	Accel   string // "tcg" or "kvm"
	Kernel  string // ELF image
	Initrd  string // with guest-agent as /init, and busybox
	HostCtl string // program
	CID     uint32 // of the guest
}

const (
	nestedTests = "github.com/vsockrpc/vsockrpc/internal/vmtest/nested"
	hostCtl     = "github.com/vsockrpc/vsockrpc/cmd/host-ctl"
	guestAgent  = "github.com/vsockrpc/vsockrpc/cmd/guest-agent"
)

// outerModules make a host of the outer kernel, in this order.
var outerModules = []string{"virtio_ring", "virtio", "vsock", "vmw_vsock_virtio_transport_common",
	"vhost_iotlb", "vhost", "vhost_vsock"}

// innerModules make a guest of the inner kernel, in this order.
var innerModules = []string{"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
	"virtio_mmio", "vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"}

// Run boots what is needed and runs the tests. It returns an error if a test
// fails or there is no result, and one that is [ErrUnavailable] if this
// machine lacks something. When it returns, nothing of the machines is left.
// The outer kernel's messages are in .lab/nested-console.log.
func (n *Nested) Run(ctx context.Context) error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w: the nested lab is for linux/amd64", ErrUnavailable)
	}
	if err := need(ctx, "qemu-system-x86_64", "qemu-system-x86"); err != nil {
		return err
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return err
	}
	if err := need(ctx, "busybox", "busybox-static"); err != nil {
		return err
	}
	k, err := findKernel(ctx)
	if err != nil {
		return err
	}
	timeout := n.Timeout
	if timeout == 0 {
		timeout = 30 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the nested lab did not end within %v", timeout))
	defer cancel()
	dir, err := workDir("nested")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	// Another user of the host runs host-ctl too.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for _, pkg := range []string{labinit, hostCtl, guestAgent} {
		if err := buildProgram(ctx, filepath.Join(dir, filepath.Base(pkg)), pkg); err != nil {
			return err
		}
	}
	runs, err := buildTests(ctx, dir, []string{nestedTests}, n.Args, timeout)
	if err != nil {
		return err
	}
	inner := Inner{
		QEMU:    qemu,
		Accel:   "kvm",
		Kernel:  k.image(),
		Initrd:  filepath.Join(dir, "inner.cpio"),
		HostCtl: filepath.Join(dir, "host-ctl"),
		CID:     3,
	}
	if err := writeInner(inner.Initrd, filepath.Join(dir, "guest-agent"), runs[0].Path, k); err != nil {
		return err
	}
	if !n.Emulate && canHost() {
		inner.CID = 1<<20 + uint32(os.Getpid())
		return n.runHere(ctx, dir, inner, runs[0])
	}
	return n.runOuter(ctx, dir, inner, runs[0], k)
}

// runHere runs the tests on this machine.
func (n *Nested) runHere(ctx context.Context, dir string, inner Inner, run Run) error {
	fmt.Fprintln(n.Output, "=== lab: this machine has KVM and vhost-vsock: guests run on it directly")
	file := filepath.Join(dir, "inner.json")
	if err := os.WriteFile(file, inner.encode(), 0o644); err != nil {
		return err
	}
	return runHere(ctx, dir, run, []string{EnvLab + "=nested", EnvInner + "=" + file}, n.Output)
}

// runOuter runs the tests in the outer machine.
func (n *Nested) runOuter(ctx context.Context, dir string, inner Inner, run Run, k kernel) error {
	initrd := filepath.Join(dir, "outer.cpio")
	if err := writeOuter(ctx, initrd, dir, inner, run, k); err != nil {
		return err
	}
	console := filepath.Join(filepath.Dir(dir), "nested-console.log")
	m := &machine{
		name: "outer machine",
		// With -icount an instruction takes a nanosecond, in the inner machine
		// too, whose clock is this one's; so no time limit of a program under
		// test is exceeded because this computer is busy. Time in which all
		// sleep is skipped.
		command: []string{inner.QEMU, "-M", "q35", "-accel", "tcg", "-icount", "shift=0,sleep=off",
			"-cpu", "qemu64,+rdrand", "-m", "2G", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
			"-serial", "file:" + console, "-serial", "stdio",
			"-kernel", k.image(), "-initrd", initrd,
			"-append", "console=ttyS0 panic=-1 tsc=reliable no_timer_check mitigations=off " + JobEnv + "=/job.json"},
		bootLimit: 5 * time.Minute,
		output:    n.Output,
	}
	err := m.run(ctx, []Run{run})
	if err != nil {
		fmt.Fprintf(n.Output, "=== lab: the end of the outer kernel's messages (%s):\n%s\n", console, tail(console, 30))
	}
	return err
}

// writeInner writes the guest's root.
func writeInner(name, agent, tests string, k kernel) error {
	modules, err := k.modules(innerModules)
	if err != nil {
		return err
	}
	return writeGuest(name, agent, tests, modules)
}

// writeGuest writes a guest's root: the agent, its kernel modules, and for
// something to run busybox and the tests.
func writeGuest(name, agent, tests string, modules []string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	a := createInitramfs(name)
	a.Copy("/init", agent)
	a.Symlink("/bin/guest-agent", "/init")
	a.Copy("/bin/lab.test", tests)
	a.Copy("/bin/busybox", busybox)
	for _, applet := range []string{"sh", "cat", "id", "sleep", "sha256sum", "kill", "poweroff", "dd", "true"} {
		a.Symlink("/bin/"+applet, "busybox")
	}
	a.File("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
	a.File("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
	a.File("/etc/machine-id", "5f1c2b7e9d3a4c60b8e2f4a6c8d0e1f3\n") // one that boots again is the same machine
	for i, m := range modules {
		a.Copy(fmt.Sprintf("/lib/modules/%02d-%s", i, filepath.Base(m)), m)
	}
	a.Dir("/tmp")
	return a.Close()
}

// writeOuter writes the outer machine's root: the test binary, host-ctl, QEMU
// with what it needs at run time, and the guest's kernel and root.
func writeOuter(ctx context.Context, name, dir string, inner Inner, run Run, k kernel) error {
	modules, err := k.modules(outerModules)
	if err != nil {
		return err
	}
	a := createInitramfs(name)
	a.Copy("/init", filepath.Join(dir, "labinit"))
	a.Copy("/bin/host-ctl", inner.HostCtl)
	a.Copy("/nested.test", run.Path)
	a.Copy("/inner/vmlinux", inner.Kernel)
	a.Copy("/inner/inner.cpio", inner.Initrd)
	a.File("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
	a.Dir("/tmp")
	if err := addQEMU(ctx, a, inner.QEMU); err != nil {
		a.Close()
		return err
	}
	job := &Job{
		Output: "/dev/ttyS1",
		Tmpfs:  []string{"/tmp"},
		Env: []string{EnvLab + "=nested", EnvInner + "=/inner/inner.json", "PATH=/bin:/usr/bin",
			"HOME=/", "USER=root", "LOGNAME=root"},
		Runs: []Run{{Name: run.Name, Path: "/nested.test", Args: run.Args, Dir: "/tmp"}},
	}
	for _, m := range modules {
		path := "/lib/modules/" + filepath.Base(m)
		a.Copy(path, m)
		job.Modules = append(job.Modules, path)
	}
	a.File("/job.json", string(job.encode()))
	a.File("/inner/inner.json", string(Inner{
		QEMU:    "/usr/bin/qemu-system-x86_64", // elsewhere it does not find its modules
		Accel:   "tcg",
		Kernel:  "/inner/vmlinux",
		Initrd:  "/inner/inner.cpio",
		HostCtl: "/bin/host-ctl",
		CID:     inner.CID,
	}.encode()))
	return a.Close()
}

// addQEMU adds the program, the shared libraries and module that it loads, and
// the firmware of the guest's machine.
func addQEMU(ctx context.Context, a *initramfs, qemu string) error {
	a.Copy("/usr/bin/qemu-system-x86_64", qemu)
	out, err := output(exec.CommandContext(ctx, "ldd", qemu))
	if err != nil {
		return err
	}
	for _, word := range strings.Fields(string(out)) {
		if filepath.IsAbs(word) {
			a.Copy(word, word)
		}
	}
	firmware := 0
	for _, pattern := range []string{
		"/usr/lib/*/qemu/accel-tcg-x86_64.so",
		"/usr/share/qemu/bios-microvm.bin",
		"/usr/share/qemu/pvh.bin",
		"/usr/share/qemu/linuxboot_dma.bin",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			a.Copy(file, file)
			firmware++
		}
	}
	if firmware < 3 { // not every QEMU has its accelerator in a module
		return fmt.Errorf("%w: %s is not laid out as Debian's", ErrUnavailable, qemu)
	}
	return nil
}

// encode returns the content of an [Inner] file.
func (i Inner) encode() []byte {
	data, err := json.Marshal(i)
	if err != nil {
		panic(err) // no field can fail
	}
	return data
}

// tail returns the last n lines of the file name, or why it has none.
func tail(name string, n int) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(string(data), "\r", ""), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
