package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func init() {
	helpers["activation"] = runActivated
	helpers["out-of-descriptors"] = runOutOfDescriptors
}

// runActivated prints the names and addresses of the listeners that it was
// started with, and serves one echo on each.
func runActivated() error {
	ls, err := ActivationListeners(nil)
	if err != nil {
		return err
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "LISTEN_") {
			return fmt.Errorf("%s is still set", v)
		}
	}
	if again, err := ActivationListeners(nil); len(again) != 0 || err != nil {
		return fmt.Errorf("the second call returned %v, %v", again, err)
	}
	// The original descriptors are closed: nothing but the copies is left.
	for fd := firstInherited; fd < firstInherited+len(ls); fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			return fmt.Errorf("descriptor %d would be inherited by a child", fd)
		}
	}
	for _, l := range ls {
		fmt.Printf("%s %v\n", l.Name(), l.Addr())
	}
	for _, l := range ls {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		io.Copy(c, c)
		c.Close()
		l.Close()
	}
	return nil
}

// startActivated starts a process with the files from descriptor 3 on, and
// LISTEN_PID as the service manager sets it. It returns its output.
func startActivated(t *testing.T, fds, names, pid string, files ...*os.File) (output func() (string, error)) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "LISTEN_PID="+pid+` exec "$0"`, exe)
	cmd.Env = append(os.Environ(), helperEnv+"=activation", "LISTEN_PID=", "LISTEN_FDS="+fds, "LISTEN_FDNAMES="+names)
	cmd.ExtraFiles = files
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() (string, error) {
		err := cmd.Wait()
		return out.String(), err
	}
}

func listenerFile(t *testing.T, l interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestActivation(t *testing.T) {
	// One socket of each carrier that is there.
	var want strings.Builder
	var files []*os.File
	var targets []Addr
	var names []string
	use := func(t *testing.T, c carrier) {
		l := c.listen(t, nil)
		files = append(files, listenerFile(t, l))
		targets = append(targets, c.target(l))
		names = append(names, c.name)
		bound := l.addr
		if c.name == "vsock-mux" {
			bound = c.target(l) // the socket itself does not say what it is for
		}
		fmt.Fprintf(&want, "%s %v\n", c.name, bound)
	}
	use(t, carriers[0])
	use(t, carriers[1])
	if os.Getenv("VSOCKRPC_LAB") != "" {
		use(t, carriers[2])
	}
	output := startActivated(t, fmt.Sprint(len(files)), strings.Join(names, ":"), "$$", files...)
	for _, a := range targets {
		c := mustDial(t, a, nil)
		io.WriteString(c, "x")
		c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != "x" {
			t.Errorf("%v: read %q, %v", a, b, err)
		}
	}
	if out, err := output(); err != nil || out != want.String() {
		t.Errorf("the process said %q, %v; want %q", out, err, want.String())
	}
	for _, a := range targets {
		if a.Net != NetworkUnix {
			continue
		}
		if _, err := os.Lstat(a.Path); err != nil {
			t.Errorf("an inherited socket's file was removed: %v", err)
		}
	}
}

func TestActivationErrors(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	unixListener := carriers[0].listen(t, nil)
	conn := mustDial(t, unixListener.addr, nil)
	connFile, err := conn.stream.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer connFile.Close()
	tests := []struct {
		name, fds, pid string
		files          []*os.File
		want           string // "" if it is no error
	}{
		{name: "not ours", fds: "1", pid: "1", files: []*os.File{listenerFile(t, unixListener)}},
		{name: "none", fds: "", pid: "$$"},
		{name: "zero", fds: "0", pid: "$$"},
		{name: "not a number", fds: "x", pid: "$$", want: `LISTEN_FDS="x"`},
		{name: "too many", fds: "99999999", pid: "$$", want: "LISTEN_FDS="},
		{name: "tcp", fds: "1", pid: "$$", files: []*os.File{listenerFile(t, tcp.(*net.TCPListener))}, want: "only vsock and Unix sockets"},
		{name: "a connection", fds: "1", pid: "$$", files: []*os.File{connFile}, want: "not a listening stream socket"},
		{name: "second of two", fds: "2", pid: "$$", files: []*os.File{listenerFile(t, unixListener), connFile}, want: "descriptor 4"},
		{name: "no such descriptor", fds: "900", pid: "$$", want: "descriptor 3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := startActivated(t, tt.fds, "", tt.pid, tt.files...)()
			if (err != nil) != (tt.want != "") || !strings.Contains(out, tt.want) {
				t.Errorf("the process said %q, %v; want %q", out, err, tt.want)
			}
		})
	}
}

func TestFileListenerErrors(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := FileListener(f, nil); !errors.Is(err, syscall.ENOTSOCK) || !strings.Contains(err.Error(), f.Name()) {
		t.Errorf("of a file: %v", err)
	}
}

// runOutOfDescriptors accepts with no descriptor left, then with some: the
// listener must go on by itself.
func runOutOfDescriptors() error {
	dir, err := os.MkdirTemp("", "vt")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := Listen(context.Background(), UnixAddr(dir+"/s"), nil)
	if err != nil {
		return err
	}
	defer l.Close()
	client, err := Dial(context.Background(), l.addr, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	var fill []*os.File
	limit := unix.Rlimit{Cur: 64, Max: 64}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	for {
		f, err := os.Open("/dev/null")
		if err != nil {
			break
		}
		fill = append(fill, f)
	}
	// Show that accepting fails now, then leave it to the listener.
	if _, err := l.acceptor.accept(); !errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("accept with %d descriptors open: %v, want EMFILE", len(fill), err)
	}
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = c.Write([]byte("hello"))
			c.Close()
		}
		accepted <- err
	}()
	for _, f := range slices.Backward(fill) {
		f.Close()
	}
	if err := <-accepted; err != nil {
		return err
	}
	if b, err := io.ReadAll(client); err != nil || string(b) != "hello" {
		return fmt.Errorf("read %q, %v", b, err)
	}
	return nil
}

func TestAcceptWithoutDescriptors(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(waitContext(t), exe)
	cmd.Env = append(os.Environ(), helperEnv+"=out-of-descriptors")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
