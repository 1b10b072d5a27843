//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strconv"
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
	const lines = 300_000
	script := "i=0; while [ $i -lt " + strconv.Itoa(lines) + " ]; do echo $i; i=$((i+1)); done; exit 8"
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
