// Command labinit is the first process of the kernels that the lab boots: it
// prepares the system, runs the programs of a job, marks how each ended on the
// console and powers the machine off. Package vmtest has the host's side.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/vmtest"
	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "labinit: only for use as a kernel's init")
		os.Exit(2)
	}
	out := os.Stdout
	if err := boot(&out); err != nil {
		tell(out, vmtest.Event{Kind: "error", Text: err.Error()})
	}
	tell(out, vmtest.Event{Kind: "done"})
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // an init must not return, and the host ends a machine that stays
}

// boot does the whole job. It replaces *out by the job's own output as soon as
// it has it.
func boot(out **os.File) error {
	if err := mountSystem(); err != nil {
		return err
	}
	job, err := vmtest.ReadJob(os.Getenv(vmtest.JobEnv))
	if err != nil {
		return err
	}
	if job.Output != "" {
		f, err := os.OpenFile(job.Output, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		*out = f
	}
	for _, dir := range job.Tmpfs {
		if err := mountTmpfs(dir, job.Keep); err != nil {
			return err
		}
	}
	for _, file := range job.Modules {
		if err := vmtest.LoadModule(file); err != nil {
			return err
		}
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	for _, run := range job.Runs {
		tell(*out, vmtest.Event{Kind: "start", Run: run.Name})
		start := time.Now()
		code, err := execute(run, job.Env, *out)
		if err != nil {
			return fmt.Errorf("run %s: %w", run.Path, err)
		}
		tell(*out, vmtest.Event{Kind: "exit", Run: run.Name, Code: code, Took: time.Since(start)})
	}
	return nil
}

// tell writes a mark in one write, so that nothing comes between its bytes.
func tell(out *os.File, e vmtest.Event) { out.WriteString(e.Mark()) }

// mountSystem mounts what every program expects to find.
func mountSystem() error {
	for _, m := range []struct{ fstype, dir, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"devpts", "/dev/pts", "ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"tmpfs", "/run", "mode=0755"},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := mount(m.fstype, m.dir, m.options); err != nil {
			return err
		}
	}
	return nil
}

func mount(fstype, dir, options string) error {
	// A directory that is missing on a file system of the host's stays so.
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	err := unix.Mount(fstype, dir, fstype, unix.MS_NOSUID, options)
	if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: the kernel has mounted it itself
		return fmt.Errorf("mount %s on %s: %w", fstype, dir, err)
	}
	return nil
}

// mountTmpfs mounts a tmpfs on dir. If keep is below dir it stays where it is.
func mountTmpfs(dir, keep string) error {
	if !strings.HasPrefix(keep, dir+"/") {
		return mount("tmpfs", dir, "mode=1777")
	}
	const aside = "/run/keep"
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(keep, aside, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", keep, err)
	}
	if err := mount("tmpfs", dir, "mode=1777"); err != nil {
		return err
	}
	if err := os.MkdirAll(keep, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(aside, keep, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s back: %w", keep, err)
	}
	return nil
}

// loopbackUp sets the interface lo up, for tests over TCP on 127.0.0.1.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// execute runs one program and reaps every orphan meanwhile, as an init must.
// The code is the exit code, or 128+N for signal N.
func execute(run vmtest.Run, env []string, out *os.File) (code int, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(run.Path, append([]string{run.Path}, run.Args...), &syscall.ProcAttr{
		Dir:   run.Dir,
		Env:   env,
		Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case got != pid:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		default:
			return status.ExitStatus(), nil
		}
	}
}
