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
	"strings"
	"syscall"
	"time"
)

// UML is a run of test binaries under User-mode Linux. The whole file system
// of the host is there, with the rights of the calling user; /tmp, /run and
// /dev are the guest's own.
type UML struct {
	Packages []string      // import paths or directories of packages with tests
	Args     []string      // flags for every test binary, such as -test.v
	Timeout  time.Duration // for the boot and all tests; 0 is 5 minutes
	Output   io.Writer     // what the guest prints
}

// umlModules give native vsock with its loopback transport.
var umlModules = []string{"vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"}

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
		timeout = 5 * time.Minute
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
	runs, err := buildTests(ctx, dir, u.Packages, u.Args)
	if err != nil {
		return err
	}
	job := &Job{
		Modules: modules,
		Env: []string{EnvLab + "=uml", "PATH=" + os.Getenv("PATH"), "HOME=/root", "USER=root", "LOGNAME=root",
			"SHELL=/bin/sh", "LANG=C.UTF-8"},
		Runs: runs,
	}
	if !strings.HasPrefix(dir, "/tmp/") { // else a tmpfs would hide the tests
		job.Tmpfs = []string{"/tmp"}
	}
	data, err := json.Marshal(job)
	if err != nil {
		return err
	}
	jobFile := filepath.Join(dir, "job.json")
	if err := os.WriteFile(jobFile, data, 0o644); err != nil {
		return err
	}

	cmd := exec.CommandContext(ctx, kernel, "rootfstype=hostfs", "rootflags=/", "rw", "mem=1G", "quiet",
		"con=null", "con0=null,fd:1", "init="+init, JobEnv+"="+jobFile)
	out, err := startGroup(cmd)
	if err != nil {
		return fmt.Errorf("start %s: %w", kernel, err)
	}
	codes, err := follow(out, u.Output)
	killGroup(cmd)
	_ = cmd.Wait() // killed, so its status says nothing
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return judge(runs, codes)
}

// judge returns an error that names the runs that did not exit with code 0.
func judge(runs []Run, codes map[string]int) error {
	var errs []error
	for _, run := range runs {
		if code, ok := codes[run.Name]; !ok {
			errs = append(errs, fmt.Errorf("%s: not run", run.Name))
		} else if code != 0 {
			errs = append(errs, fmt.Errorf("%s: exit code %d", run.Name, code))
		}
	}
	return errors.Join(errs...)
}

// startGroup starts cmd, which must be of exec.CommandContext, as the leader
// of a process group of its own, which the end of the context kills as a
// whole. It returns the read side of its standard output and error.
func startGroup(cmd *exec.Cmd) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd) }
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// killGroup kills the process group that cmd leads: a kernel in user mode
// leaves processes behind when only its first one is killed. It must come
// before cmd.Wait has returned, while the group's number is still taken.
func killGroup(cmd *exec.Cmd) error {
	return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}
