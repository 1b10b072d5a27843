package nested

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// callLimit ends a host-ctl that hangs, with the stacks of its goroutines.
const callLimit = time.Minute

// A host runs host-ctl.
type host struct {
	hostCtl string
	guest   string // as host-ctl has it
}

// A call is a run of host-ctl.
type call struct {
	args  []string
	stdin io.Reader
	user  uint32 // uid to run as
}

// A result is what came of a call.
type result struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d after %v, stdout %q, stderr %q", r.code, r.took.Round(time.Millisecond), r.stdout, r.stderr)
}

// command returns a host-ctl that is not started.
func (h host) command(ctx context.Context, c call) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.hostCtl, c.args...)
	cmd.Stdin = c.stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.user != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.user, Gid: c.user}
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// call runs host-ctl to its end.
func (h host) call(t *testing.T, c call) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	cmd := h.command(ctx, c)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(start)}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ctx.Err() != nil {
		t.Fatalf("host-ctl %q: %v; %v", c.args, err, r)
	}
	t.Logf("host-ctl %s: exit code %d after %v", strings.Join(c.args, " "), r.code, r.took.Round(time.Millisecond))
	return r
}

// run runs host-ctl with the arguments, as root and without stdin.
func (h host) run(t *testing.T, args ...string) result {
	t.Helper()
	return h.call(t, call{args: args})
}

// A background is a host-ctl that runs while the test goes on.
type background struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner // of stdout
	errs  bytes.Buffer
	done  chan struct{} // closed when it has ended and errs and the exit code are there
}

// start starts host-ctl, which is ended with the test.
func (h host) start(t *testing.T, args ...string) *background {
	t.Helper()
	return h.startCall(t, call{args: args})
}

func (h host) startCall(t *testing.T, c call) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := &background{cmd: h.command(ctx, c), done: make(chan struct{})}
	r, w := io.Pipe()
	b.lines = bufio.NewScanner(r)
	b.cmd.Stdout, b.cmd.Stderr = w, &b.errs
	if err := b.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		_ = b.cmd.Wait() // the exit code is in ProcessState
		w.Close()
		close(b.done)
	}()
	t.Cleanup(func() {
		cancel()
		r.Close()
		<-b.done
	})
	return b
}

// line returns the next line of stdout.
func (b *background) line(t *testing.T) string {
	t.Helper()
	timer := time.AfterFunc(callLimit, func() { _ = b.cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	if !b.lines.Scan() {
		<-b.done
		t.Fatalf("host-ctl %q ended: exit code %d, stderr %q", b.cmd.Args[1:], b.cmd.ProcessState.ExitCode(), &b.errs)
	}
	return b.lines.Text()
}

// wait waits until host-ctl has ended, and returns its exit code and stderr. What it
// writes to stdout from now on is lost.
func (b *background) wait(t *testing.T, limit time.Duration) (code int, stderr string) {
	t.Helper()
	go func() {
		for b.lines.Scan() { // what it still says must not hold it up
		}
	}()
	select {
	case <-b.done:
	case <-time.After(limit):
		_ = b.cmd.Process.Signal(syscall.SIGQUIT)
		<-b.done
		t.Fatalf("host-ctl %q hangs, for more than %v: %s", b.cmd.Args[1:], limit, &b.errs)
	}
	return b.cmd.ProcessState.ExitCode(), b.errs.String()
}
