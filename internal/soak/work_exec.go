//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

// Each exec begins by appending its id to the machine's journal, in one write
// with O_APPEND: two lines of the same id are an exec that ran twice.
const (
	echoScript = `echo "$1" >>"$2"; cat; exit "$3"`
	slowScript = `echo "$1" >>"$2"; i=0; while [ $i -lt "$4" ]; do echo "$1 line $i"; sleep 0.1; i=$((i+1)); done; exit "$3"`
)

func (c *client) script(ctx context.Context, op *operation, text string, code, lines int) *guest.Cmd {
	cmd := c.guest.Command(ctx, "/bin/sh", "-c", text, "sh", op.id, c.machine.journal(), strconv.Itoa(code), strconv.Itoa(lines))
	cmd.OwnerGrace = ownerGrace
	return cmd
}

// ownerGrace is how long a session outlives its connection. It is more than the
// default, for computers so busy that a client needs seconds to come back.
const ownerGrace = 10 * time.Second

// ranWell checks the result of a run: output is whole if it was done, and
// otherwise as far as it goes.
func ranWell(err error, got, want []byte, code int) error {
	if exit, ok := errors.AsType[*guest.ExitError](err); ok {
		if exit.ExitCode() != code {
			return brokenf("%v (%s), want exit code %d", exit, exit.Reason(), code)
		}
		err = nil
	} else if err == nil && code != 0 {
		return brokenf("exit code 0, want %d", code)
	}
	return sameOutput(err, got, want)
}

func sameOutput(err error, got, want []byte) error {
	if err == nil && !bytes.Equal(got, want) || !bytes.HasPrefix(want, got) {
		n := 0
		for n < min(len(got), len(want)) && got[n] == want[n] {
			n++
		}
		return brokenf("%d bytes of output, the first %d right, want %d; error %v", len(got), n, len(want), err)
	}
	return err
}

// execEcho has bytes go through a command.
func (c *client) execEcho(ctx context.Context, op *operation) error {
	want, code := randomBytes(op.random, op.random.IntN(256<<10)), op.random.IntN(3)
	cmd := c.script(ctx, op, echoScript, code, 0)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout = bytes.NewReader(want), &out
	err := ranWell(cmd.Run(), out.Bytes(), want, code)
	c.note(c.execs, op.id, err)
	return err
}

// slowOutput is what slowScript prints.
func slowOutput(id string, lines int) []byte {
	var b bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&b, "%s line %d\n", id, i)
	}
	return b.Bytes()
}

// slowLines returns how many lines a slow command prints, ten a second.
func (c *client) slowLines(op *operation) int { return 1 + op.random.IntN(c.s.opts.lines) }

// execSlow runs a command for a while, that prints all the time.
func (c *client) execSlow(ctx context.Context, op *operation) error {
	lines, code := c.slowLines(op), op.random.IntN(3)
	cmd := c.script(ctx, op, slowScript, code, lines)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := ranWell(cmd.Run(), out.Bytes(), slowOutput(op.id, lines), code)
	c.note(c.execs, op.id, err)
	return err
}

// detached starts a session that nobody is attached to, and has its output
// later.
func (c *client) detached(ctx context.Context, op *operation) error {
	lines, code := 1+op.random.IntN(c.s.opts.lines/4), op.random.IntN(3)
	cmd := c.script(ctx, op, slowScript, code, lines)
	cmd.Detach, cmd.ID = true, guest.NewSessionID()
	err := cmd.Start()
	var out bytes.Buffer
	if err == nil {
		attached := c.guest.Attach(ctx, cmd.ID.String(), nil)
		attached.Stdout = &out
		err = attached.Run()
		_ = cmd.Process.Detach()
		_ = cmd.Wait() // has been released
	}
	err = ranWell(err, out.Bytes(), slowOutput(op.id, lines), code)
	c.note(c.execs, op.id, err)
	return err
}

// ctlCall is a run of host-ctl.
type ctlCall struct {
	killed bool // by a fault; guarded by the machine's mu
}

// errKilled says that a fault has killed the host-ctl of an operation.
var errKilled = errors.New("host-ctl was killed")

// ctlError is a failure that host-ctl reported.
type ctlError struct{ stderr string }

func (e *ctlError) Error() string { return "host-ctl: " + e.stderr }

// exitOwn is host-ctl's exit code for failures of its own.
const exitOwn = 125

// ctl runs host-ctl and returns its exit code, unless it failed itself.
func (c *client) ctl(ctx context.Context, stdin io.Reader, stdout io.Writer, args ...string) (int, error) {
	m := c.machine
	args = append([]string{"--connect-timeout", "30s"}, args...)
	if m.trust != nil {
		args = append([]string{"--identity", m.identity, "--guest-key", m.trust.GuestKey}, args...)
	}
	cmd := exec.CommandContext(ctx, c.s.opts.hostCtl, args...)
	cmd.Env = []string{"HOME=" + c.dir, "XDG_CONFIG_HOME=" + c.dir, "PATH=/usr/bin:/bin"}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	call := &ctlCall{}
	if err := c.s.children.start(cmd); err != nil {
		return 0, broken{err}
	}
	m.mu.Lock()
	m.ctls[cmd] = call
	m.mu.Unlock()
	err := c.s.children.wait(cmd)
	m.mu.Lock()
	killed := call.killed
	delete(m.ctls, cmd)
	m.mu.Unlock()
	code := cmd.ProcessState.ExitCode()
	switch {
	case killed && code < 0:
		return 0, errKilled
	case code == exitOwn:
		return 0, &ctlError{strings.TrimSpace(stderr.String())}
	case code < 0:
		return 0, brokenf("host-ctl: %v: %s", err, &stderr)
	}
	return code, nil
}

// ctlExec is execEcho or execSlow by host-ctl.
func (c *client) ctlExec(ctx context.Context, op *operation) error {
	var out bytes.Buffer
	code := op.random.IntN(3)
	script, lines, want := slowScript, c.slowLines(op), []byte(nil)
	args := []string{"exec", "--grace", ownerGrace.String()}
	var stdin io.Reader
	if op.random.IntN(2) == 0 {
		script, want = echoScript, randomBytes(op.random, op.random.IntN(256<<10))
		stdin, args = bytes.NewReader(want), append(args, "-i")
	} else {
		want = slowOutput(op.id, lines)
	}
	args = append(args, c.machine.target(), "--", "/bin/sh", "-c", script, "sh", op.id, c.machine.journal(), strconv.Itoa(code), strconv.Itoa(lines))
	got, err := c.ctl(ctx, stdin, &out, args...)
	if err == nil && got != code {
		err = brokenf("exit code %d, want %d", got, code)
	}
	err = sameOutput(err, out.Bytes(), want)
	c.note(c.execs, op.id, err)
	return err
}

// randomBytes returns n bytes that follow from r.
func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		x := r.Uint64()
		for j := range 8 {
			b[i+j] = byte(x >> (8 * j))
		}
	}
	return b[:n]
}
