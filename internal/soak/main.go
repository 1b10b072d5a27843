//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// envOwnMounts says that this process has a mount namespace of its own.
const envOwnMounts = "VSOCKRPC_SOAK_OWN_MOUNTS"

func main() {
	opts := options{machines: 4, lines: 40, out: os.Stdout, full: os.Getenv(envOwnMounts) != ""}
	flag.DurationVar(&opts.time, "time", 5*time.Minute, "how long faults are injected; the checks come on top")
	flag.Uint64Var(&opts.seed, "seed", uint64(time.Now().Unix()), "what the work and the faults follow from (default: the time)")
	flag.IntVar(&opts.clients, "clients", 64, "how many clients work")
	flag.StringVar(&opts.agent, "agent", "", "guest-agent program (default: built)")
	flag.StringVar(&opts.hostCtl, "host-ctl", "", "host-ctl program (default: built)")
	flag.BoolVar(&opts.verbose, "v", false, "print each operation and fault")
	flag.Parse()
	if flag.NArg() > 0 || opts.time <= 0 || opts.clients <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := start(ctx, opts)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		code = 1
	}
	os.Exit(code)
}

func start(ctx context.Context, opts options) (int, error) {
	if !opts.full {
		code, err := withOwnMounts(ctx, opts.seed)
		if !errors.Is(err, errors.ErrUnsupported) {
			return code, err
		}
		fmt.Printf("SKIP: full disks: %v\n", err)
	}
	if opts.agent == "" || opts.hostCtl == "" {
		dir, err := os.MkdirTemp("", "soak-programs")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		build := exec.CommandContext(ctx, "go", "build", "-tags", "grpcnotrace", "-o", dir,
			"github.com/vsockrpc/vsockrpc/cmd/guest-agent", "github.com/vsockrpc/vsockrpc/cmd/host-ctl")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("go build: %w\n%s", err, out)
		}
		opts.agent, opts.hostCtl = filepath.Join(dir, "guest-agent"), filepath.Join(dir, "host-ctl")
	}
	for _, program := range []*string{&opts.agent, &opts.hostCtl} {
		var err error
		if *program, err = filepath.Abs(*program); err != nil {
			return 0, err
		}
	}
	broken, err := run(ctx, opts)
	if err != nil || broken == 0 {
		return 0, err
	}
	return 1, nil
}

// withOwnMounts runs this program again where it can mount a file system that
// nobody else sees. An error that is [errors.ErrUnsupported] says why it cannot.
func withOwnMounts(ctx context.Context, seed uint64) (int, error) {
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("%w: only root may mount a small file system", errors.ErrUnsupported)
	}
	probe := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "none", "/mnt")
	probe.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := probe.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w: mount: %v: %s", errors.ErrUnsupported, err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, append([]string{fmt.Sprintf("-seed=%d", seed)}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), envOwnMounts+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}
