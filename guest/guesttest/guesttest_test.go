package guesttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/guest"
)

func TestMain(m *testing.M) {
	process.MaybeRunLauncher()
	switch os.Getenv("GUESTTEST_AS") {
	case "cat":
		n, _ := io.Copy(os.Stdout, os.Stdin)
		os.Stderr.WriteString("copied\n")
		os.Exit(int(n & 0x7f))
	case "sleep":
		os.Stdout.WriteString("started\n")
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// program returns a command that runs this test's binary, which every system has.
func program(t *testing.T, g *Guest, as string) *guest.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := g.Command(t.Context(), exe)
	c.ExtraEnv = []string{"GUESTTEST_AS=" + as}
	return c
}

// each runs f with the agent of this system, and with the one that stands in for it on
// others.
func each(t *testing.T, f func(t *testing.T, g *Guest)) {
	t.Run("agent", func(t *testing.T) { f(t, New(t)) })
	t.Run("stand-in", func(t *testing.T) {
		g, err := start(t.Context(), nil, newStandIn())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.Close)
		f(t, g)
	})
}

func TestCommands(t *testing.T) {
	each(t, func(t *testing.T, g *Guest) {
		data := bytes.Repeat([]byte("0123456789"), 500_000)
		cmd := program(t, g, "cat")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		exit, ok := errors.AsType[*guest.ExitError](err)
		if !ok || exit.ExitCode() != len(data)&0x7f || string(exit.Stderr) != "copied\n" {
			t.Errorf("%v", err)
		}
		if !bytes.Equal(out, data) {
			t.Errorf("%d bytes, want %d", len(out), len(data))
		}

		ctx, cancel := context.WithCancel(t.Context())
		sleeper := program(t, g, "sleep")
		sleeping := g.Command(ctx, sleeper.Path)
		sleeping.ExtraEnv = sleeper.ExtraEnv
		stdout, err := sleeping.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := sleeping.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stdout, make([]byte, len("started\n"))); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := sleeping.Wait(); !errors.Is(err, context.Canceled) && runtime.GOOS != "windows" && sleeping.ProcessState.Signal() != 9 {
			t.Errorf("a command that was canceled: %v", err)
		}

		timed := program(t, g, "sleep")
		timed.Timeout = 200 * time.Millisecond
		if err := timed.Run(); err == nil || !timed.ProcessState.TimedOut() {
			t.Errorf("a command that timed out: %v", err)
		}
		if err := g.Command(t.Context(), "no-such-program").Run(); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("no such program: %v", err)
		}
	})
}

func TestFiles(t *testing.T) {
	each(t, func(t *testing.T, g *Guest) {
		ctx, f, dir := t.Context(), g.Files(), filepath.ToSlash(t.TempDir())
		must := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		must("mkdir", f.MkdirAll(ctx, dir+"/a/b", 0o755))
		file, err := f.Create(ctx, dir+"/a/file")
		must("create", err)
		text := strings.Repeat("some text\n", 100_000)
		_, err = io.WriteString(file, text)
		must("write", err)
		must("close", file.Close())
		got, err := f.ReadFile(ctx, dir+"/a/file", 0)
		if must("read", err); string(got) != text {
			t.Errorf("%d bytes, want %d", len(got), len(text))
		}
		opened, err := f.Open(ctx, dir+"/a/file")
		must("open", err)
		if all, err := io.ReadAll(opened); err != nil || string(all) != text {
			t.Errorf("read from the open file: %d bytes, %v", len(all), err)
		}
		must("close", opened.Close())
		must("rename", f.Rename(ctx, dir+"/a/file", dir+"/a/b/renamed"))
		var names []string
		for info, err := range f.List(ctx, dir, &guest.ListOptions{Depth: 2}) {
			must("list", err)
			names = append(names, info.Path())
		}
		if strings.Join(names, " ") != "a a/b a/b/renamed" {
			t.Errorf("listed %q", names)
		}
		if err := fs.WalkDir(g.FS(ctx, dir), ".", func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			t.Errorf("walk: %v", err)
		}
		if _, err := f.Stat(ctx, dir+"/nothing"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat of nothing: %v", err)
		}
		back := t.TempDir()
		result, err := f.CopyFrom(ctx, []string{dir + "/a"}, back, nil)
		if must("copy from", err); result.Files == 0 {
			t.Errorf("copied %+v", result)
		}
		_, err = f.CopyTo(ctx, []string{filepath.Join(back, "a")}, dir+"/copy", nil)
		must("copy to", err)
		sum, n, err := f.Hash(ctx, dir+"/copy/b/renamed", 0, 0)
		if must("hash", err); n != uint64(len(text)) || sum == [32]byte{} {
			t.Errorf("hash of %d bytes", n)
		}
		must("remove", f.RemoveAll(ctx, dir+"/copy"))
		if _, err := os.Stat(filepath.Join(filepath.FromSlash(dir), "copy")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after RemoveAll: %v", err)
		}
	})
}

// TestMissing shows how a guest says what the stand-in cannot do.
func TestMissing(t *testing.T) {
	g, err := start(t.Context(), nil, newStandIn())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	tty := g.Command(t.Context(), "x")
	tty.Terminal = &guest.Terminal{Rows: 24, Columns: 80}
	_, sessions := g.Sessions(t.Context())
	_, dial := g.DialContext(t.Context(), "tcp", "localhost:1")
	for what, err := range map[string]error{"terminal": tty.Run(), "sessions": sessions, "dial": dial} {
		if e, ok := errors.AsType[*guest.Error](err); !ok || e.Reason != guest.ReasonAgentTooOld {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCut(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("commands survive a cut with the real agent only")
	}
	lost := make(chan struct{}, 1)
	g, err := Start(t.Context(), &guest.Config{OnLost: func(*guest.Guest) { lost <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	cmd := program(t, g, "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.Cut()
	<-lost
	io.WriteString(in, "after the cut")
	in.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != len("after the cut") || out.String() != "after the cut" {
		t.Errorf("%q, %v", &out, err)
	}
}
