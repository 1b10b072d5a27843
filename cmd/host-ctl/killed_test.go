//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKilledAndAttached kills host-ctl in mid-stream and has the rest of the
// stream with another.
func TestKilledAndAttached(t *testing.T) {
	addr := tempAgent(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	hostCtl := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], args...)
		cmd.Env = append(os.Environ(), asHostCtl+"=1")
		cmd.Stderr = os.Stderr
		return cmd
	}
	// More than the buffers hold: the command is not done when host-ctl dies.
	const lines = 1_500_000
	script := "seq 0 " + strconv.Itoa(lines-1) + "; exit 8"
	first := hostCtl("exec", "--name", "count", "--grace", "1m", addr, "sh", "-c", script)
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := io.CopyN(&got, out, 300_000); err != nil {
		t.Fatal(err)
	}
	first.Process.Kill()
	// What it had written before it died is in the pipe still.
	if _, err := io.Copy(&got, out); err != nil {
		t.Fatal(err)
	}
	first.Wait()

	second := hostCtl("attach", "--take-over", "--from", strconv.Itoa(got.Len()), addr, "count")
	rest, err := second.Output()
	if code := second.ProcessState.ExitCode(); code != 8 {
		t.Errorf("exit code %d, %v", code, err)
	}
	got.Write(rest)
	var want bytes.Buffer
	for i := range lines {
		want.WriteString(strconv.Itoa(i) + "\n")
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("got %d bytes, want %d, equal", got.Len(), want.Len())
	}
}

// TestAgentRestarted runs host-ctl against the guest-agent program, which is
// killed and started again: the session is lost, and host-ctl says so instead
// of running the command again.
func TestAgentRestarted(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, path, ran := filepath.Join(dir, "guest-agent"), filepath.Join(dir, "a"), filepath.Join(dir, "ran")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/vsockrpc/vsockrpc/cmd/guest-agent")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	start := func() *exec.Cmd {
		os.Remove(path)
		agent := exec.CommandContext(ctx, program, "--listen", "unix:"+path)
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		return agent
	}
	hostCtl := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0], args...)
		cmd.Env = append(os.Environ(), asHostCtl+"=1")
		return cmd
	}
	agent := start()
	defer func() { agent.Process.Kill(); agent.Wait() }()
	if out, err := hostCtl("wait", "unix:"+path).CombinedOutput(); err != nil {
		t.Fatalf("wait: %v: %s", err, out)
	}
	cmd := hostCtl("exec", "unix:"+path, "sh", "-c", "echo $$ >> "+ran+"; echo ready; exec sleep 1000")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	agent.Process.Kill()
	agent.Wait()
	agent = start()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(stderr.String(), "session lost") {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
	data, err := os.ReadFile(ran)
	pids := strings.Fields(string(data))
	if len(pids) != 1 {
		t.Errorf("the command ran %d times, %v", len(pids), err)
	}
	// The agent had no time to end it.
	for _, pid := range pids {
		if n, err := strconv.Atoi(pid); err == nil {
			syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

// TestStoppedClient: a host-ctl that is stopped for longer than a peer usually may be
// silent keeps its command and its connection.
func TestStoppedClient(t *testing.T) {
	if os.Getenv("VSOCKRPC_STRESS") == "" {
		t.Skip("takes 40 s: VSOCKRPC_STRESS=1 runs it")
	}
	for _, wire := range []string{"native", "grpc"} {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			cmd := hostCtlCommand(t.Context(), "--wire", wire, "exec", "--reconnect", "0", tempAgent(t), "sh", "-c", "echo up; sleep 50; echo end")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			if !lines.Scan() || lines.Text() != "up" {
				t.Fatal("the command has not begun")
			}
			cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(40 * time.Second)
			cmd.Process.Signal(syscall.SIGCONT)
			if !lines.Scan() || lines.Text() != "end" {
				t.Error("the command was ended")
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
