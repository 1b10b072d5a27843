//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/hostile"
)

// hostileVerbs are command lines that print what a guest has said; GUEST stands
// for the guest and DIR for a directory.
var hostileVerbs = []string{
	"exec GUEST true", "exec -d GUEST true",
	"sessions GUEST", "sessions -o json GUEST", "sessions -q GUEST",
	"attach GUEST SESSION", "logs GUEST SESSION", "logs -f GUEST SESSION", "rm GUEST SESSION",
	"ps GUEST", "ps -o json GUEST", "kill GUEST 1",
	"info GUEST", "info -o json GUEST", "doctor GUEST", "-v info GUEST",
	"ls GUEST /", "ls -o json GUEST /", "ls -l GUEST /", "stat GUEST /a", "stat -o json GUEST /a",
	"df GUEST", "df -o json GUEST", "du GUEST /", "du -o json GUEST /", "watch GUEST /", "watch -o json GUEST /",
	"cat GUEST /a", "mkdir GUEST /a", "mv GUEST /a /b", "rm GUEST /a",
	"cp GUEST:/a DIR/to", "cp DIR/source GUEST:/a", "cp -a GUEST:/a DIR/archive", "cp GUEST:/a -",
	"clock GUEST", "clock -o json --set GUEST", "clock --sync GUEST",
	"can-i GUEST exec true", "enroll --list GUEST",
	"port-forward GUEST :80", "proxy GUEST 22", "wait --timeout 300ms GUEST", "enroll GUEST",
}

// numbers are the verbs that print sizes and times.
const numbers = " exec sessions ps info doctor ls stat df du watch wait clock "

// raw says of which verbs the output is the guest's own, byte for byte.
func raw(verb string) bool {
	return strings.HasPrefix(verb, "cat ") || strings.HasSuffix(verb, " -") || strings.HasPrefix(verb, "proxy ") ||
		strings.HasPrefix(verb, "exec ") || strings.HasPrefix(verb, "attach ") || strings.HasPrefix(verb, "logs ")
}

// TestHostileGuest runs every verb against agents that lie. What it prints does
// nothing to a terminal; it needs little memory; it ends.
func TestHostileGuest(t *testing.T) {
	bin := buildHostCtl(t)
	for _, a := range []hostile.Agent{
		{Temper: hostile.Text, Manner: hostile.Once},
		{Temper: hostile.Text, Manner: hostile.Fails},
		{Temper: hostile.Highest, Manner: hostile.Once},
		{Temper: hostile.Lowest, Manner: hostile.Once},
		{Temper: hostile.Mixed, Manner: hostile.Once, Seed: 7},
		{Temper: hostile.Large, Manner: hostile.Endless},
	} {
		t.Run(fmt.Sprintf("%s/%s", a.Temper, a.Manner), func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "hostile")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			l, err := net.Listen("unix", filepath.Join(dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			s := a.Server()
			served := make(chan error, 1)
			go func() { served <- s.Serve(l) }()
			t.Cleanup(func() {
				s.Stop()
				<-served
			})
			if err := os.WriteFile(filepath.Join(dir, "source"), make([]byte, 1000), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, verb := range hostileVerbs {
				if (a.Temper == hostile.Highest || a.Temper == hostile.Lowest) && !strings.Contains(numbers, " "+strings.Fields(verb)[0]+" ") {
					continue
				}
				hostileVerb(t, bin, dir, verb)
			}
			if _, err := os.Lstat("/tmp/hostile-evil"); err == nil {
				t.Error("a file was made outside of what was asked for")
			}
		})
	}
}

// maxHostile is how much memory host-ctl may take, whatever its guest says; hostileTime how
// long a verb runs before it is interrupted, as a user would.
const (
	maxHostile  = 64 << 20
	hostileTime = 250 * time.Millisecond
)

func hostileVerb(t *testing.T, bin, dir, verb string) {
	t.Helper()
	args := strings.Fields(strings.NewReplacer("GUEST", "unix:"+dir+"/s", "SESSION", hostile.SessionID, "DIR", dir).Replace(verb))
	ctx, cancel := context.WithTimeout(t.Context(), hostileTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "HOST_CTL_GUEST=", "GOTRACEBACK=single")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	stdout, stderr := &head{}, &head{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	most := make(chan int)
	go func() { most <- memory(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	close(ended)
	held := <-most
	if cmd.ProcessState == nil || !cmd.ProcessState.Exited() && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("%s: %v, stderr %.300q", verb, err, stderr.Bytes())
		return
	}
	if held > maxHostile {
		t.Errorf("%s: %d MiB of memory", verb, held>>20)
	}
	if bytes.Contains(stderr.Bytes(), []byte("goroutine ")) {
		t.Errorf("%s: %s", verb, stderr.Bytes())
	}
	if bytes.Contains(stderr.Bytes(), []byte("Usage:")) {
		t.Errorf("%s: no such command: %s", verb, stderr.Bytes())
	}
	if h := hostile.Harmful(stderr.Bytes()); h != "" {
		t.Errorf("%s: %s on stderr: %.300q", verb, h, stderr.Bytes())
	}
	if h := hostile.Harmful(stdout.Bytes()); h != "" && !raw(verb) {
		t.Errorf("%s: %s on stdout: %.300q", verb, h, stdout.Bytes())
	}
}

// memory returns the most memory that a process has had, as far as can be seen from
// outside before it has ended. What wait4 reports of it is that of its parent, if
// that has more.
func memory(pid int, ended <-chan struct{}) (most int) {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if _, after, ok := strings.Cut(string(status), "\nVmHWM:"); ok && err == nil && bytes.Contains(status, []byte("Name:\thost-ctl\n")) {
			var kib int
			if _, err := fmt.Sscan(after, &kib); err == nil {
				most = kib << 10
			}
		}
		select {
		case <-ended:
			return most
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// head keeps the first bytes that are written to it.
type head struct{ bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), max(1<<20-h.Len(), 0))])
	return len(p), nil
}

// buildHostCtl builds the program as it is shipped: with the race detector it
// would need more memory.
func buildHostCtl(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "host-ctl")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		if _, lerr := exec.LookPath("go"); lerr != nil {
			t.Skip("no go command")
		}
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}
