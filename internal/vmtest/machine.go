package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

// A machine is a kernel with labinit as its first process.
type machine struct {
	name      string
	command   []string
	env       []string      // besides this process's own
	bootLimit time.Duration // from the start to the first mark
	output    io.Writer
}

// run boots the machine, a second time if it hangs while booting, and waits
// until it has done all runs of its job. When it returns, nothing of the
// machine is left. The error says which runs failed, or why there is no result.
func (m *machine) run(ctx context.Context, runs []Run) error {
	codes, err := m.boot(ctx)
	if errors.Is(err, errHung) {
		fmt.Fprintf(m.output, "=== lab: %v; once more\n", err)
		codes, err = m.boot(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range runs {
		if code, ok := codes[r.Name]; !ok {
			errs = append(errs, fmt.Errorf("%s: not run", r.Name))
		} else if code != 0 {
			errs = append(errs, fmt.Errorf("%s: exit code %d", r.Name, code))
		}
	}
	return errors.Join(errs...)
}

var errHung = errors.New("boot hangs")

// boot is one try; see follow for what it returns.
func (m *machine) boot(ctx context.Context) (codes map[string]int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, m.command[0], m.command[1:]...)
	cmd.Env = append(os.Environ(), m.env...)
	cmd.Stdout, cmd.Stderr = w, w
	// A kernel in user mode leaves processes behind when only its first one is
	// killed. The kill comes before Wait has returned, while the number of the
	// group is still taken.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel = kill
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	var hung atomic.Bool
	timer := time.AfterFunc(m.bootLimit, func() {
		hung.Store(true)
		_ = kill()
	})
	codes, err = follow(r, m.output, func() { timer.Stop() })
	timer.Stop()
	_ = kill()
	_ = cmd.Wait() // killed, so its status says nothing
	if hung.Load() {
		return nil, fmt.Errorf("%s: %w: nothing after %v", m.name, errHung, m.bootLimit)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", m.name, err)
	}
	return codes, err
}
