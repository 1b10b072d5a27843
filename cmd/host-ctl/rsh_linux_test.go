package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Programs of others that have host-ctl exec for their remote shell. The guest is
// called web.

// remoteShell makes host-ctl a program in PATH and an agent the guest web, and
// returns a directory.
func remoteShell(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"host-ctl/config.toml": fmt.Sprintf("[guests.web]\ntarget = %q\n", tempAgent(t)),
		"bin/host-ctl":         fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asHostCtl, os.Args[0]),
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	t.Setenv("GIT_SSH_COMMAND", "host-ctl exec --rsh")
	return dir
}

// awkwardTree makes a few files, some with names that a shell would not leave
// alone, and one that no buffer holds.
func awkwardTree(t *testing.T, dir string) {
	t.Helper()
	data := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{2}).Read(data)
	for name, text := range map[string]string{"a b/it's $x;* \\n": "quoted", "a b/-l": "dash", "big": string(data), "\xff": "bytes"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("big", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
}

func sameTrees(t *testing.T, want, got string) {
	t.Helper()
	if out, err := exec.Command("diff", "-r", "--no-dereference", want, got).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestPeerRsync(t *testing.T) {
	rsync := program(t, "rsync")
	dir := remoteShell(t)
	src := filepath.Join(dir, "the source")
	awkwardTree(t, src)
	run := func(args ...string) error {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), rsync, append([]string{"-a", "-e", "host-ctl exec --rsh"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
		return nil
	}
	up, down := filepath.Join(dir, "up"), filepath.Join(dir, "down")
	for range 2 { // the second has nothing to do
		if err := run(src+"/", "web:"+up); err != nil {
			t.Fatal(err)
		}
		sameTrees(t, src, up)
	}
	if err := run(fmt.Sprintf("%d@web:%s/", os.Getuid(), src), down); err != nil {
		t.Fatal(err)
	}
	sameTrees(t, src, down)
	if err := run("--delete", "--checksum", "web:"+up+"/a b/", down); err != nil {
		t.Fatal(err)
	}
	sameTrees(t, filepath.Join(src, "a b"), down)
	err := run("web:"+dir+"/none", down)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 23 || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("no source: %v", err)
	}
	err = run("no-such-guest:/x", down)
	if err == nil || !strings.Contains(err.Error(), "no guest is called") {
		t.Errorf("no guest: %v", err)
	}
}

func TestPeerTar(t *testing.T) {
	tar := program(t, "tar")
	dir := remoteShell(t)
	src, up, down := filepath.Join(dir, "src"), filepath.Join(dir, "up"), filepath.Join(dir, "down")
	awkwardTree(t, src)
	if err := errors.Join(os.Mkdir(up, 0o755), os.Mkdir(down, 0o755)); err != nil {
		t.Fatal(err)
	}
	pipe := func(from, to *exec.Cmd) {
		t.Helper()
		var stderr, stderr2 bytes.Buffer
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		from.Stdout, from.Stderr, to.Stdin, to.Stderr = w, &stderr, r, &stderr2
		err = errors.Join(from.Start(), to.Start(), w.Close(), r.Close())
		if err = errors.Join(err, from.Wait(), to.Wait()); err != nil {
			t.Fatalf("%v: %s%s", err, &stderr, &stderr2)
		}
	}
	pipe(exec.Command(tar, "c", "-C", src, "."), exec.Command("host-ctl", "exec", "-i", "web", "tar", "x", "-C", up))
	sameTrees(t, src, up)
	pipe(exec.Command("host-ctl", "exec", "web", "tar", "c", "-C", src, "."), exec.Command(tar, "x", "-C", down))
	sameTrees(t, src, down)
	// And with no tar in the guest.
	up, down = filepath.Join(dir, "up2"), filepath.Join(dir, "down2")
	if err := errors.Join(os.Mkdir(up, 0o755), os.Mkdir(down, 0o755)); err != nil {
		t.Fatal(err)
	}
	pipe(exec.Command(tar, "c", "-C", src, "."), exec.Command("host-ctl", "cp", "-", "web:"+up))
	sameTrees(t, src, up)
	pipe(exec.Command("host-ctl", "cp", "web:"+src+"/.", "-"), exec.Command(tar, "x", "-C", down))
	sameTrees(t, src, down)
}

func TestPeerGit(t *testing.T) {
	git := program(t, "git")
	dir := remoteShell(t)
	from := filepath.Join(dir, "the project")
	awkwardTree(t, from)
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), git, append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com"}, args...)...)
		return output(t, cmd)
	}
	run("init", "-q", from)
	run("-C", from, "add", ".")
	run("-C", from, "commit", "-q", "-m", "files")
	for i, url := range []string{"web:" + from, "ssh://web" + from, fmt.Sprintf("%d@web:%s", os.Getuid(), from)} {
		to := filepath.Join(dir, fmt.Sprint("clone", i))
		run("clone", "-q", url, to)
		if got, want := run("-C", to, "rev-parse", "HEAD"), run("-C", from, "rev-parse", "HEAD"); got != want {
			t.Errorf("cloned %s, want %s", got, want)
		}
		// And back.
		run("-C", to, "commit", "-q", "--allow-empty", "-m", "more")
		branch := fmt.Sprint("branch", i)
		run("-C", to, "push", "-q", "origin", "HEAD:refs/heads/"+branch)
		if here, there := run("-C", to, "rev-parse", "HEAD"), run("-C", from, "rev-parse", branch); here != there {
			t.Errorf("pushed %s, there is %s", here, there)
		}
	}
	// Without a shell in between: the ext transport.
	to := filepath.Join(dir, "ext")
	run("-c", "protocol.ext.allow=always", "clone", "-q", "ext::host-ctl exec -i web %S "+strings.ReplaceAll(from, " ", "% "), to)
	if got, want := run("-C", to, "rev-parse", "HEAD"), run("-C", from, "rev-parse", "HEAD"); got != want {
		t.Errorf("cloned %s, want %s", got, want)
	}
}
