package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCopyInterrupted interrupts and kills host-ctl in mid-copy, both ways. The
// destination is not there then, or its old self; --resume goes on from what is.
func TestCopyInterrupted(t *testing.T) {
	addr, dir := tempAgent(t), t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	contents := make([]byte, 48<<20)
	rand.Read(contents)
	src := filepath.Join(dir, "src")
	if err := os.WriteFile(src, contents, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"to", "from"} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			t.Run(way+"/"+sig.String(), func(t *testing.T) {
				to := t.TempDir()
				dst := filepath.Join(to, "dst")
				if err := os.WriteFile(dst, []byte("old"), 0o644); err != nil {
					t.Fatal(err)
				}
				args := []string{src, addr + ":" + dst}
				if way == "from" {
					args = []string{addr + ":" + src, dst}
				}
				start := func(flags ...string) (*exec.Cmd, *bytes.Buffer) {
					cmd := exec.CommandContext(ctx, os.Args[0], append(append([]string{"cp"}, flags...), args...)...)
					cmd.Env = append(os.Environ(), asHostCtl+"=1")
					var stderr bytes.Buffer
					cmd.Stderr = &stderr
					if err := cmd.Start(); err != nil {
						t.Fatal(err)
					}
					return cmd, &stderr
				}
				begun := func() bool {
					parts, _ := filepath.Glob(filepath.Join(to, ".vsockrpc-*.part"))
					if len(parts) == 0 {
						return false
					}
					info, err := os.Stat(parts[0])
					return err == nil && info.Size() > 0
				}
				cmd, stderr := start()
				for !begun() && ctx.Err() == nil {
					time.Sleep(100 * time.Microsecond)
				}
				cmd.Process.Signal(sig)
				cmd.Wait()
				data, err := os.ReadFile(dst)
				if bytes.Equal(data, contents) {
					t.Skip("the copy was done before the signal came")
				}
				if err != nil || string(data) != "old" {
					t.Errorf("%d bytes at the destination, %v", len(data), err)
				}
				if sig == syscall.SIGINT {
					if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(stderr.String(), "--resume") {
						t.Errorf("exit code %d, %s", code, stderr)
					}
				}
				if !begun() {
					t.Error("nothing is left to go on from")
				}
				cmd, stderr = start("--resume")
				if err := cmd.Wait(); err != nil {
					t.Fatalf("--resume: %v, %s", err, stderr)
				}
				if data, err := os.ReadFile(dst); err != nil || !bytes.Equal(data, contents) {
					t.Errorf("after --resume: %d bytes, %v", len(data), err)
				}
				if left, err := os.ReadDir(to); err != nil || len(left) != 1 {
					t.Errorf("after --resume there are %v, %v", left, err)
				}
			})
		}
	}
}
