package vmtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// UML is a run of test binaries under User-mode Linux. The whole file system
// of the host is there, with the rights of the calling user; /tmp, /run and
// /dev are the guest's own.
type UML struct {
	Packages []string      // import paths or directories of packages with tests
	Args     []string      // flags for every test binary, such as -test.v
	Timeout  time.Duration // for the boot and all tests; 0 is 20 minutes
	Output   io.Writer     // what the guest prints
}

// umlModules give native vsock with its loopback transport.
var umlModules = []string{"vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"}

// umlMemory is the memory of the guest in bytes.
const umlMemory = 1 << 30

// Run boots the guest and runs the tests one package after the other. It
// returns an error if a test fails or the guest does not come to its end, and
// one that is [ErrUnavailable] if there is no User-mode Linux here. When it
// returns, nothing of the guest is left.
func (u *UML) Run(ctx context.Context) error {
	kernel, modules, err := findUML(ctx)
	if err != nil {
		return err
	}
	timeout := u.Timeout
	if timeout == 0 {
		timeout = 20 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the UML lab did not end within %v", timeout))
	defer cancel()

	dir, err := workDir("uml")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	init := filepath.Join(dir, "labinit")
	if err := buildProgram(ctx, init, labinit); err != nil {
		return err
	}
	runs, err := buildTests(ctx, dir, u.Packages, u.Args, timeout)
	if err != nil {
		return err
	}
	for _, pkg := range []string{hostCtl, guestAgent} {
		if err := buildProgram(ctx, filepath.Join(dir, filepath.Base(pkg)), pkg); err != nil {
			return err
		}
	}
	job := &Job{
		Modules: modules,
		Env: []string{EnvLab + "=uml", EnvPrograms + "=" + dir, "PATH=" + os.Getenv("PATH"), "HOME=/root", "USER=root", "LOGNAME=root",
			"SHELL=/bin/sh", "LANG=C.UTF-8"},
		Tmpfs: []string{"/tmp"}, // host files lack what tests need, such as inodes that are not used again
		Keep:  filepath.Dir(filepath.Dir(dir)),
		Runs:  runs,
	}
	jobFile := filepath.Join(dir, "job.json")
	if err := os.WriteFile(jobFile, job.encode(), 0o644); err != nil {
		return err
	}
	m := &machine{
		name: "User-mode Linux",
		command: []string{kernel, "rootfstype=hostfs", "rootflags=/", "rw", "quiet",
			fmt.Sprintf("mem=%d", umlMemory), "con=null", "con0=null,fd:1", "init=" + init, JobEnv + "=" + jobFile},
		bootLimit: time.Minute,
		output:    u.Output,
	}
	if !canHoldMemory("/dev/shm", umlMemory) { // there is where it would put its memory
		m.env = []string{"TMPDIR=" + dir}
	}
	return m.run(ctx, runs)
}
