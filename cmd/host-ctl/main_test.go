//go:build linux

package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/guest"
)

// Variables that have the test binary be host-ctl, or the program that it runs
// on a terminal.
const (
	asHostCtl = "VSOCKRPC_TEST_AS_HOST_CTL"
	asProgram = "VSOCKRPC_TEST_AS_PROGRAM"
)

func TestMain(m *testing.M) {
	process.MaybeRunLauncher()
	if os.Getenv(asProgram) != "" {
		os.Exit(runProgram())
	}
	if os.Getenv(asHostCtl) != "" {
		os.Unsetenv(asHostCtl)
		main()
	}
	testscript.Main(m, map[string]func(){"host-ctl": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, scriptParams("testdata/script"))
}

// scriptParams returns how to run the scripts in a directory.
func scriptParams(dir string) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir)
			// A short path: that of a Unix socket has 108 bytes at most.
			dir, err := os.MkdirTemp("", "ctl")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Setenv("SOCKETS", dir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent":    scriptAgent,
			"speaker":  scriptSpeaker,
			"await":    scriptAwait,
			"exitcode": scriptExitCode,
			"bytes":    scriptBytes,
		},
	}
}

// scriptAgent starts an agent on a Unix socket: agent PATH [untrusting|control],
// which trusts nobody, or has the control face only. It runs until the script ends.
func scriptAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: agent PATH [untrusting|control]")
	}
	rules, face := access.Rules{Mode: access.ModeEmbedded}, access.FaceAll
	switch {
	case len(args) == 1:
	case args[1] == string(access.FaceControl):
		face = access.FaceControl
	default:
		// Nobody is the host's root on a connection of which nothing is known.
		rules = access.Rules{}
	}
	stop, err := runAgent(ts.MkAbs(args[0]), rules, face)
	ts.Check(err)
	ts.Defer(stop)
}

func runAgent(path string, rules access.Rules, face access.Face) (stop func(), err error) {
	a, err := agent.New(&agent.Config{
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Access: rules,
		// Shells do not depend on what is in the profile of who runs the test.
		Process: &process.Config{Env: []string{"HOME=" + filepath.Dir(path)}},
	})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	served := make(chan error, 1)
	go func() { served <- a.ServeFace(l, face) }()
	return func() {
		a.Close()
		<-served
	}, nil
}

// scriptSpeaker listens on a Unix socket and says TEXT to whoever connects: speaker PATH
// TEXT. It runs until the script ends.
func scriptSpeaker(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: speaker PATH TEXT")
	}
	l, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprintf(conn, "%s\r\n", args[1])
				io.Copy(io.Discard, conn)
			}()
		}
	}()
}

// scriptAwait repeats host-ctl until its stdout has a text: await TEXT ARG...
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] await TEXT ARG...")
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		ts.Exec("host-ctl", args[1:]...)
		if strings.Contains(ts.ReadFile("stdout"), args[0]) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v: stdout without %q (or with, after !): %s", args[1:], args[0], ts.ReadFile("stdout"))
		}
	}
}

// scriptExitCode runs a command that has to exit with a code: exitcode N CMD
// ARG...
func scriptExitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode N CMD ARG...")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		if got = "?"; fmt.Sprint(err) != "" {
			fmt.Sscanf(err.Error(), "exit status %s", &got)
		}
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// scriptBytes makes a file with every byte in it, control characters and all:
// bytes FILE.
func scriptBytes(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: bytes FILE")
	}
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), all, 0o644))
}

// tempAgent starts an agent for a test and returns its address.
func tempAgent(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "a")
	stop, err := runAgent(path, access.Rules{Mode: access.ModeEmbedded}, access.FaceAll)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return "unix:" + path
}

// dialTest dials an agent of a test.
func dialTest(t *testing.T, addr string) *guest.Guest {
	t.Helper()
	g, err := guest.Dial(t.Context(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}
