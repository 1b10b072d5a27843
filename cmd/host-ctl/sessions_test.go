//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// runHostCtl runs host-ctl to its end and returns what it wrote and its exit code.
func runHostCtl(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs strings.Builder
	cmd := hostCtlCommand(t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestParseProcess(t *testing.T) {
	tests := map[string]struct {
		want processArg
		ok   bool
	}{
		"12":          {processArg{pid: 12}, true},
		"12@345":      {processArg{pid: 12, start: 345}, true},
		"0":           {processArg{}, true},
		"12@":         {processArg{pid: 12}, false},
		"12@0":        {processArg{pid: 12}, false},
		"12@x":        {processArg{pid: 12}, false},
		"@5":          {processArg{}, false},
		"-1":          {processArg{}, false},
		"4294967296":  {processArg{}, false},
		"s0123456789": {processArg{}, false},
		"build":       {processArg{}, false},
	}
	for arg, tt := range tests {
		if got, ok := parseProcess(arg); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %+v, %v, want %+v, %v", arg, got, ok, tt.want, tt.ok)
		}
	}
}

// TestKillWhatWasShown shows that kill hits the process that ps has shown, and
// no later one with its pid.
func TestKillWhatWasShown(t *testing.T) {
	addr := tempAgent(t)
	g := dialTest(t, addr)
	cmd := g.Command(t.Context(), "sleep", "1000")
	cmd.Detach = true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := uint32(cmd.Process.Pid)
	starts, err := processStarts(t.Context(), g, []string{fmt.Sprint(pid), "build", "7@8"})
	if err != nil || len(starts) != 1 || starts[pid] == 0 {
		t.Fatalf("starts %v, %v, want that of %d", starts, err, pid)
	}
	// As if another process had got the pid since.
	later := map[uint32]uint64{pid: starts[pid] + 1}
	if err := kill(t.Context(), g, fmt.Sprint(pid), 9, false, later); err == nil {
		t.Error("a process that was not meant was hit")
	}
	if _, stderr, code := runHostCtl(t, "kill", addr, fmt.Sprintf("%d@%d", pid, starts[pid]+1)); code != exitFailure || !strings.Contains(stderr, "another one now") {
		t.Errorf("a later process: exit code %d, stderr %q", code, stderr)
	}
	if _, stderr, code := runHostCtl(t, "kill", "-s", "0", addr, fmt.Sprint(pid)); code != 0 {
		t.Errorf("the process is not there: exit code %d, stderr %q", code, stderr)
	}
	if _, stderr, code := runHostCtl(t, "kill", "-s", "USR1", "--group", addr, fmt.Sprintf("%d@%d", pid, starts[pid])); code != 0 {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	state, err := g.WaitSession(t.Context(), cmd.ID)
	if err != nil || state.Signal() != 10 {
		t.Errorf("the process ended with %v, %v, want signal 10", state, err)
	}
}

// TestLogsAfterOwner shows that logs has what a client has read already.
func TestLogsAfterOwner(t *testing.T) {
	addr := tempAgent(t)
	g := dialTest(t, addr)
	cmd := g.Command(t.Context(), "sh", "-c", "seq 1 50; exec sleep 1000")
	cmd.Detach, cmd.Name = true, "counter"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	owner := g.Attach(t.Context(), "counter", nil)
	pipe, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for i := range 50 {
		fmt.Fprintln(&all, i+1)
	}
	read := make([]byte, all.Len())
	if _, err := io.ReadFull(pipe, read); err != nil || string(read) != all.String() {
		t.Fatalf("the owner got %q, %v", read, err)
	}
	logs := func(args ...string) {
		t.Helper()
		want := all.String()
		if len(args) > 0 {
			want = "49\n50\n"
		}
		if stdout, stderr, code := runHostCtl(t, append(append([]string{"logs"}, args...), addr, "counter")...); stdout != want || code != 0 {
			t.Errorf("logs %v: %q, %q, exit code %d, want %q", args, stdout, stderr, code, want)
		}
	}
	logs()
	logs("--tail", "2")
	if err := owner.Process.Detach(); err != nil {
		t.Fatal(err)
	}
	logs()
	if err := g.SignalSession(t.Context(), cmd.ID, guest.Signal(15), &guest.SignalOptions{Group: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.WaitSession(t.Context(), cmd.ID); err != nil {
		t.Fatal(err)
	}
	logs()
	logs("-f", "--tail", "2")
	// Who attaches goes on where the owner was.
	if stdout, _, code := runHostCtl(t, "attach", addr, "counter"); stdout != "" || code != exitSignal+15 {
		t.Errorf("attach: %q, exit code %d", stdout, code)
	}
}

// TestSessionGone shows that a session which has been forgotten is not called one
// that never was.
func TestSessionGone(t *testing.T) {
	addr := tempAgent(t)
	id, stderr, code := runHostCtl(t, "exec", "-d", addr, "true")
	if code != 0 {
		t.Fatal(stderr)
	}
	id = strings.TrimSpace(id)
	if _, stderr, code := runHostCtl(t, "attach", addr, id); code != 0 {
		t.Fatal(stderr)
	}
	for _, verb := range []string{"attach", "logs", "kill"} {
		if _, stderr, code := runHostCtl(t, verb, addr, id); code != exitFailure || !strings.Contains(stderr, "has ended and is forgotten") {
			t.Errorf("%s: exit code %d, stderr %q", verb, code, stderr)
		}
	}
}

// TestObserverInterrupted shows that a signal to an observer is not the
// command's.
func TestObserverInterrupted(t *testing.T) {
	addr := tempAgent(t)
	g := dialTest(t, addr)
	cmd := g.Command(t.Context(), "sh", "-c", "echo ready; exec sleep 1000")
	cmd.Detach = true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	observer := hostCtlCommand(t.Context(), "attach", "--observe", addr, cmd.ID.String())
	out, err := observer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := observer.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	observer.Process.Signal(os.Interrupt)
	observer.Wait()
	if code := observer.ProcessState.ExitCode(); code != exitSignal+2 {
		t.Errorf("exit code %d, want %d", code, exitSignal+2)
	}
	if _, stderr, code := runHostCtl(t, "kill", addr, cmd.ID.String()); code != 0 {
		t.Errorf("the command was ended with the observer: %s", stderr)
	}
	state, err := g.WaitSession(t.Context(), cmd.ID)
	if err != nil || state.Signal() != 15 {
		t.Errorf("the command ended with %v, %v, want signal 15", state, err)
	}
}

// TestAttachAfterDrop: the owner of a session that has dropped output goes on.
func TestAttachAfterDrop(t *testing.T) {
	g := dialTest(t, tempAgent(t))
	k := g.Command(t.Context(), "sh", "-c", "seq 100000; read x; echo end")
	k.Detach, k.DropOldest, k.RingBytes, k.OpenStdin = true, true, 4096, true
	if err := k.Start(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "output is dropped", func() bool {
		sessions, err := g.Sessions(t.Context())
		return err == nil && sessions[0].StdoutFirst > 0 && sessions[0].StdoutEnd > 588_000
	})
	var lost uint64
	a := g.Attach(t.Context(), k.ID.String(), nil)
	a.OnGap = func(_ int, _, n uint64) { lost += n }
	a.Stdin = strings.NewReader("go\n")
	out, err := a.Output()
	if err != nil || !strings.HasSuffix(string(out), "100000\nend\n") || lost == 0 || int(lost)+len(out) != 588_895+4 {
		t.Errorf("%v, %d bytes that end with %q, %d lost", err, len(out), out[max(len(out)-20, 0):], lost)
	}
}

// TestObserverOnlyReads: what an observer may not do is refused at once, and ends
// nothing.
func TestObserverOnlyReads(t *testing.T) {
	g := dialTest(t, tempAgent(t))
	k := g.Command(t.Context(), "sh", "-c", "echo up; read x; echo end")
	k.Detach, k.OpenStdin, k.Terminal = true, true, &guest.Terminal{Rows: 24, Columns: 80}
	if err := k.Start(); err != nil {
		t.Fatal(err)
	}
	typing := g.Attach(t.Context(), k.ID.String(), &guest.AttachOptions{Observer: true})
	typing.Stdin = strings.NewReader("x\n")
	if err := typing.Start(); err == nil || !strings.Contains(err.Error(), "observer") {
		t.Errorf("an observer with a stdin: %v", err)
	}
	watch := g.Attach(t.Context(), k.ID.String(), &guest.AttachOptions{Observer: true, FromOldest: true})
	var out bytes.Buffer
	watch.Stdout = &out
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	if err := watch.Process.Resize(40, 100); err == nil || !strings.Contains(err.Error(), "observer") {
		t.Errorf("an observer's resize: %v", err)
	}
	owner := g.Attach(t.Context(), k.ID.String(), nil)
	owner.Stdin = strings.NewReader("x\n")
	if err := owner.Run(); err != nil {
		t.Fatal(err)
	}
	if err := watch.Wait(); err != nil || !strings.Contains(out.String(), "end") {
		t.Errorf("the observer has %q, %v", out.String(), err)
	}
}

// TestAttachAfterWait: once an owner has had the end of a session, it is gone for
// everybody, at once.
func TestAttachAfterWait(t *testing.T) {
	g := dialTest(t, tempAgent(t))
	for range 50 {
		k := g.Command(t.Context(), "sh", "-c", "echo out")
		if out, err := k.Output(); err != nil || string(out) != "out\n" {
			t.Fatalf("%q, %v", out, err)
		}
		err := g.Attach(t.Context(), k.ID.String(), nil).Run()
		if e, ok := errors.AsType[*guest.Error](err); !ok || e.Reason != "session-gone" {
			t.Fatalf("attached to what is over: %v", err)
		}
	}
}
