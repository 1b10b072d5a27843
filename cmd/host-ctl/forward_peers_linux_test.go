package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Programs of others that speak through forwarded sockets. Each test is skipped
// where its program is missing.

// program returns the path of a program.
func program(t *testing.T, name string, also ...string) string {
	t.Helper()
	for _, n := range append([]string{name}, also...) {
		if path, err := exec.LookPath(n); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// startServer starts a server, which ends with the test, and waits until it
// listens on a port of loopback.
func startServer(t *testing.T, port string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	log := new(lockedBuffer)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, log)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s has ended:\n%s", name, log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen:\n%s", name, log)
		}
	}
}

// freePort returns a port of loopback that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return port(l.Addr())
}

// output runs a program and returns what it prints.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, &stderr)
	}
	return string(out)
}

func TestPeerCurl(t *testing.T) {
	curl := program(t, "curl")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := new(bytes.Buffer)
		got.ReadFrom(r.Body)
		fmt.Fprintf(w, "%s %d\n", r.Method, got.Len())
		w.Write(body)
	})}
	go server.Serve(l)
	defer server.Close()
	h := startHostCtl(t, "port-forward", tempAgent(t), ":"+port(l.Addr()))
	url := "http://" + h.forward() + "/"
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "GET 0\n"},
		{[]string{"-T", file, "-H", "Expect:"}, fmt.Sprintf("PUT %d\n", len(body))},
	} {
		args := append([]string{"-sS", "--max-time", "60", "--noproxy", "*", url, url}, tt.args...)
		if len(tt.args) > 0 {
			args = append([]string{"-sS", "--max-time", "60", "--noproxy", "*", url}, tt.args...)
		}
		got := output(t, exec.CommandContext(t.Context(), curl, args...))
		if !strings.HasPrefix(got, tt.want) || !strings.HasSuffix(got, string(body)) {
			t.Errorf("curl %v: %d bytes, %.20q", tt.args, len(got), got)
		}
	}
	// Go's client, with connections kept and many at once.
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	results := make(chan error, 20)
	for range cap(results) {
		go func() {
			resp, err := client.Post(url, "text/plain", strings.NewReader("x"))
			if err == nil {
				defer resp.Body.Close()
				got := new(bytes.Buffer)
				if _, err = got.ReadFrom(resp.Body); err == nil && got.Len() != len("POST 1\n")+len(body) {
					err = fmt.Errorf("%d bytes", got.Len())
				}
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestPeerNginx(t *testing.T) {
	nginx := program(t, "nginx", "/usr/sbin/nginx")
	dir := t.TempDir()
	p := freePort(t)
	page := strings.Repeat("a page of nginx\n", 10_000)
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server { listen 127.0.0.1:%[2]s; root %[1]s; }
}`, dir, p)
	for name, text := range map[string]string{"conf": conf, "page": page} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	startServer(t, p, nginx, "-p", dir, "-c", filepath.Join(dir, "conf"))
	g := dialTest(t, tempAgent(t))
	client := &http.Client{Transport: &http.Transport{DialContext: g.DialContext}}
	defer client.CloseIdleConnections()
	for range 3 {
		resp, err := client.Get("http://127.0.0.1:" + p + "/page")
		if err != nil {
			t.Fatal(err)
		}
		got := new(bytes.Buffer)
		_, err = got.ReadFrom(resp.Body)
		resp.Body.Close()
		if err != nil || got.String() != page || !strings.HasPrefix(resp.Header.Get("Server"), "nginx") {
			t.Errorf("%d bytes, %v, %v", got.Len(), err, resp.Header)
		}
	}
}

func TestPeerRedis(t *testing.T) {
	server, cli := program(t, "redis-server"), program(t, "redis-cli")
	p := freePort(t)
	startServer(t, p, server, "--bind", "127.0.0.1", "--port", p, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	h := startHostCtl(t, "port-forward", tempAgent(t), ":"+p)
	_, forwarded, _ := net.SplitHostPort(h.forward())
	redis := func(stdin string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), cli, append([]string{"-h", "127.0.0.1", "-p", forwarded}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		return output(t, cmd)
	}
	if got := redis("", "PING"); got != "PONG\n" {
		t.Errorf("PING: %q", got)
	}
	value := strings.Repeat("v", 3<<20)
	redis(value, "-x", "SET", "big")
	if got := redis("", "GET", "big"); got != value+"\n" {
		t.Errorf("GET: %d bytes", len(got))
	}
	// Mass insertion: all commands are sent before the answers are read.
	var pipe strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&pipe, "SET key%d value%d\r\n", i, i)
	}
	if got := redis(pipe.String(), "--pipe"); !strings.Contains(got, "errors: 0, replies: 10000") {
		t.Errorf("--pipe: %s", got)
	}
	if got := redis("", "GET", "key9999"); got != "value9999\n" {
		t.Errorf("GET: %q", got)
	}
}

// sshServer starts an sshd that lets this user in, and returns arguments for ssh
// that reach it as the host web.vm through host-ctl proxy, with the ssh_config
// that the guide gives.
func sshServer(t *testing.T) []string {
	t.Helper()
	sshd, keygen := program(t, "sshd", "/usr/sbin/sshd"), program(t, "ssh-keygen")
	program(t, "ssh")
	me, err := user.Current()
	if err != nil {
		t.Skip(err)
	}
	if me.Uid == "0" {
		// What it wants to have for the separation of privileges.
		if _, err := os.Stat("/run/sshd"); errors.Is(err, os.ErrNotExist) {
			if err := os.Mkdir("/run/sshd", 0o755); err != nil {
				t.Skip(err)
			}
			t.Cleanup(func() { os.Remove("/run/sshd") })
		}
	}
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		output(t, exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)))
	}
	key, err := os.ReadFile(filepath.Join(dir, "user.pub"))
	if err != nil {
		t.Fatal(err)
	}
	hostKey, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	p := freePort(t)
	config := fmt.Sprintf(`ListenAddress 127.0.0.1
Port %[2]s
HostKey %[1]s/host
PidFile none
AuthorizedKeysFile %[1]s/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
PerSourceMaxStartups none
`, dir, p)
	for name, text := range map[string]string{
		"config": config, "authorized": string(key), "known": "web.vm " + string(hostKey),
		"ssh_config":           guideSSHConfig(t, me.Username),
		"host-ctl/config.toml": fmt.Sprintf("[guests.web]\ntarget = %q\n", tempAgent(t)),
		"bin/host-ctl":         fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asHostCtl, os.Args[0]),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	t.Setenv("XDG_CONFIG_HOME", dir)
	startServer(t, p, sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	return []string{"-F", filepath.Join(dir, "ssh_config"), "-i", filepath.Join(dir, "user"), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known"), "-o", "HostKeyAlias=web.vm", "-p", p}
}

// guideSSHConfig returns the snippet of docs/guides/forward.md, with the user
// replaced.
func guideSSHConfig(t *testing.T, login string) string {
	t.Helper()
	guide, err := os.ReadFile("../../docs/guides/forward.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(guide), "```\nHost *.vm\n")
	snippet, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 || !strings.Contains(snippet, "User root\n") {
		t.Fatal("the guide has no ssh_config")
	}
	return "Host *.vm\n" + strings.Replace(snippet, "User root", "User "+login, 1)
}

func TestPeerSSH(t *testing.T) {
	args := sshServer(t)
	ssh := func(command string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "ssh", append(args[:len(args):len(args)], "web.vm", command)...)
	}
	if got := output(t, ssh("echo hello")); got != "hello\n" {
		t.Errorf("%q", got)
	}
	err := ssh("exit 7").Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 7 {
		t.Errorf("exit 7: %v", err)
	}
	all := bytes.Repeat([]byte("all of the bytes \x00\x01\xff\r\n"), 200_000)
	cmd := ssh("cat")
	cmd.Stdin = bytes.NewReader(all)
	if got := output(t, cmd); got != string(all) {
		t.Errorf("%d bytes, want %d", len(got), len(all))
	}

	t.Run("git clone", func(t *testing.T) { testGitClone(t, args) })
}

func testGitClone(t *testing.T, sshArgs []string) {
	git := program(t, "git")
	dir := t.TempDir()
	// git hands this to a shell.
	ssh := "ssh"
	for _, a := range sshArgs {
		ssh += " '" + a + "'"
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), git, args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_SSH_COMMAND="+ssh,
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		return output(t, cmd)
	}
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	run("init", "-q", from)
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	if err := os.WriteFile(filepath.Join(from, "data"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	run("-C", from, "add", "data")
	run("-C", from, "commit", "-q", "-m", "data")
	run("clone", "-q", "ssh://web.vm"+from, to)
	if got, err := os.ReadFile(filepath.Join(to, "data")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// And back.
	run("-C", to, "commit", "-q", "--allow-empty", "-m", "more")
	run("-C", to, "push", "-q", "origin", "HEAD:refs/heads/other")
	if here, there := run("-C", to, "rev-parse", "HEAD"), run("-C", from, "rev-parse", "other"); here != there {
		t.Errorf("pushed %s, there is %s", here, there)
	}
}
