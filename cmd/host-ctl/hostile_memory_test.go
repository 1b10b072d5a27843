//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/internal/hostile"
)

// flooded are the command lines of each verb that a guest floods, GUEST standing for
// the guest, DIR for a directory, and NEW for one that does not exist. A verb without
// any talks to no guest.
var flooded = map[string][]string{
	"exec":         {"exec GUEST true", "exec -d GUEST true", "-v exec GUEST true"},
	"shell":        {"shell GUEST"},
	"attach":       {"attach GUEST SESSION", "attach --observe GUEST SESSION", "__complete attach GUEST s"},
	"sessions":     {"sessions GUEST", "sessions -o json GUEST", "sessions -q GUEST"},
	"logs":         {"logs GUEST SESSION", "logs -f --tail 5 GUEST SESSION"},
	"ps":           {"ps GUEST", "ps -o json GUEST", "ps -q GUEST"},
	"kill":         {"kill GUEST 1", "kill GUEST SESSION"},
	"rm":           {"rm GUEST SESSION", "rm -r GUEST /a"},
	"info":         {"info GUEST", "info -o json GUEST"},
	"wait":         {"wait --timeout 5s GUEST"},
	"clock":        {"clock GUEST", "clock -o json --sync GUEST", "clock --watch GUEST"},
	"list":         {"list", "list -o json"},
	"doctor":       {"doctor GUEST", "doctor -o json GUEST"},
	"port-forward": {"port-forward GUEST :80", "port-forward --reverse GUEST 8080:80"},
	"proxy":        {"proxy GUEST 22"},
	"enroll":       {"enroll --list GUEST", "enroll --list -o json GUEST", "enroll GUEST"},
	"can-i":        {"can-i GUEST exec true", "can-i -o json GUEST exec true"},
	"cp": {"cp GUEST:/a NEW", "cp -a GUEST:/a NEW", "cp -a -o json GUEST:/a/. NEW", "cp GUEST:/a -", "cp -a GUEST:/a -", "cp DIR/source GUEST:/a",
		"cp -a GUEST:/a GUEST:/b", "cp --resume DIR/source GUEST:/a", "__complete cp GUEST:/"},
	"ls":    {"ls -lt GUEST /", "ls GUEST /*", "ls GUEST /", "ls -l GUEST /", "ls -R GUEST /", "ls -lR -o json GUEST /", "__complete ls GUEST /"},
	"cat":   {"cat GUEST /a", "cat -f GUEST /a"},
	"write": {"write GUEST /a"},
	"edit":  {"edit GUEST /a"},
	"mkdir": {"mkdir GUEST /a"},
	"mv":    {"mv GUEST /a /b"},
	"stat":  {"stat GUEST /a", "stat -o json GUEST /a"},
	"df":    {"df GUEST", "df -o json GUEST"},
	"du":    {"du GUEST /", "du -o json GUEST /"},
	"watch": {"watch GUEST /", "watch -o json GUEST /"},

	// What a guest's driver can make it hold is tested in transport/vsockdev.
	"vsock-device": nil,
	"keygen":       nil, "version": nil, "completion": nil, "help": nil,
}

// floodTime is how long a verb is flooded before it is interrupted, as a user would.
const floodTime = 600 * time.Millisecond

// TestFloodedVerbs runs every verb against guests that send as much as they can, and
// looks at the memory that host-ctl has had at most.
func TestFloodedVerbs(t *testing.T) {
	c := &cli{stdin: os.Stdin, stdout: io.Discard, stderr: io.Discard}
	root := c.rootCommand()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, verb := range root.Commands() {
		checkFlooded(t, verb)
	}
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	bin := buildHostCtl(t)
	for _, flood := range hostile.Floods {
		t.Run(string(flood), func(t *testing.T) {
			t.Parallel()
			dir := floodedGuest(t, flood)
			for verb, lines := range flooded {
				for _, line := range lines {
					if held := floodVerb(t, bin, dir, verb, line); held > maxHostile {
						t.Errorf("%s: %d MiB of memory, want %d at most", line, held>>20, maxHostile>>20)
					}
				}
			}
		})
	}
}

// checkFlooded fails the test if nobody has decided how a verb is flooded.
func checkFlooded(t *testing.T, verb *cobra.Command) {
	lines, ok := flooded[verb.Name()]
	if !ok {
		t.Errorf("how a guest floods %q is to be added to flooded", verb.Name())
	}
	for _, line := range lines {
		if !slices.Contains(strings.Fields(line), verb.Name()) {
			t.Errorf("%q is no command line of %s", line, verb.Name())
		}
	}
}

// floodedGuest starts a guest, and returns a directory with its socket s.
func floodedGuest(t *testing.T, flood hostile.Flood) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "flood")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := flood.Server()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	config := fmt.Sprintf("[guests.evil]\ntarget = %q\n", "unix:"+dir+"/s")
	if err := os.MkdirAll(filepath.Join(dir, "host-ctl"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "host-ctl/config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "source"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(dir, "source", fmt.Sprint(i)), make([]byte, 50_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// floodVerb runs a verb for floodTime, and returns how much memory it has had.
func floodVerb(t *testing.T, bin, dir, verb, line string) int {
	t.Helper()
	dst := filepath.Join(dir, "new")
	defer os.RemoveAll(dst)
	args := strings.Fields(strings.NewReplacer("GUEST", "unix:"+dir+"/s", "SESSION", hostile.SessionID, "DIR", dir, "NEW", dst).Replace(line))
	ctx, cancel := context.WithTimeout(t.Context(), floodTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "HOST_CTL_GUEST=", "GOTRACEBACK=single", "GOMEMLIMIT=", "GOGC=")
	cmd.Cancel = func() error {
		// The first one may be the command's, which the guest does not end.
		time.AfterFunc(floodTime/3, func() { cmd.Process.Signal(syscall.SIGTERM) })
		return cmd.Process.Signal(syscall.SIGTERM)
	}
	cmd.WaitDelay = time.Minute
	stderr := &head{}
	cmd.Stdout, cmd.Stderr = &head{}, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	most := make(chan int)
	go func() { most <- memory(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	close(ended)
	held := <-most
	if bytes.Contains(stderr.Bytes(), []byte("goroutine ")) || bytes.Contains(stderr.Bytes(), []byte("Usage:")) {
		t.Errorf("%s: %v, %.2000s", line, err, stderr.Bytes())
	}
	if h := hostile.Harmful(stderr.Bytes()); h != "" && !strings.Contains(" exec shell attach logs ", " "+verb+" ") {
		t.Errorf("%s: %s on stderr: %.300q", line, h, stderr.Bytes())
	}
	if testing.Verbose() {
		t.Logf("%3d MiB  %s: %v %.80q", held>>20, line, err, stderr.Bytes())
	}
	return held
}
