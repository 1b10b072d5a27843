package guest_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// benchTargets serves one agent on a Unix socket, and behind a simulated VMM.
func benchTargets(b *testing.B) (targets map[string]string) {
	b.Helper()
	a, err := agent.New(&agent.Config{Access: access.Rules{Mode: access.ModeEmbedded}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { a.Close() })
	path := filepath.Join(b.TempDir(), "s")
	unix, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	go a.Serve(unix)
	vmm := vmmtest.New(b)
	behind, err := vmm.Listen(1000)
	if err != nil {
		b.Fatal(err)
	}
	go a.Serve(behind)
	return map[string]string{"unix": "unix:" + path, "vsock-mux": vmm.Addr(1000)}
}

// BenchmarkDial is from nothing to the agent's first answer.
func BenchmarkDial(b *testing.B) {
	for name, target := range benchTargets(b) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				g, err := guest.Dial(b.Context(), target, nil)
				if err != nil {
					b.Fatal(err)
				}
				g.Close()
			}
		})
	}
}

// BenchmarkExec is from start to exit of true: in this process's own children,
// in the guest over one connection, and through an sshd on loopback.
func BenchmarkExec(b *testing.B) {
	b.Run("os-exec", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, target := range benchTargets(b) {
		g, err := guest.Dial(b.Context(), target, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer g.Close()
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := g.Command(b.Context(), "true").Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("ssh", func(b *testing.B) {
		ssh := startSSH(b)
		for b.Loop() {
			if out, err := ssh("true").CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	})
}

// BenchmarkExecStdout is the output of one command, beside a copy over a bare
// Unix socket from another process, and beside ssh.
func BenchmarkExecStdout(b *testing.B) {
	const size = 256 << 20
	command := []string{"head", "-c", fmt.Sprint(size), "/dev/zero"}
	run := func(b *testing.B, run func() (int64, error)) {
		b.SetBytes(size)
		for b.Loop() {
			if n, err := run(); err != nil || n != size {
				b.Fatalf("%d bytes, %v", n, err)
			}
		}
	}
	b.Run("raw-socket", func(b *testing.B) {
		run(b, func() (int64, error) { return rawSocketCopy(b, command) })
	})
	for name, target := range benchTargets(b) {
		g, err := guest.Dial(b.Context(), target, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer g.Close()
		b.Run(name, func(b *testing.B) {
			run(b, func() (int64, error) {
				var n counter
				cmd := g.Command(b.Context(), command[0], command[1:]...)
				cmd.Stdout = &n
				err := cmd.Run()
				return int64(n), err
			})
		})
	}
	b.Run("ssh", func(b *testing.B) {
		ssh := startSSH(b)
		run(b, func() (int64, error) {
			var n counter
			cmd := ssh(command...)
			cmd.Stdout = &n
			err := cmd.Run()
			return int64(n), err
		})
	})
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// rawSocketCopy runs the command with its output on a pipe, from which this
// process sends it over a Unix socket to itself: the least that an agent has to do.
func rawSocketCopy(b *testing.B, command []string) (int64, error) {
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), fmt.Sprint("raw", time.Now().UnixNano())))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	go func() {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			return
		}
		defer conn.Close()
		cmd := exec.Command(command[0], command[1:]...)
		out, err := cmd.StdoutPipe()
		if err != nil || cmd.Start() != nil {
			return
		}
		io.CopyBuffer(onlyWriter{conn}, out, make([]byte, 64<<10))
		cmd.Wait()
	}()
	conn, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return io.CopyBuffer(onlyWriter{io.Discard}, conn, make([]byte, 64<<10))
}

// onlyWriter hides ReadFrom, so that nothing is spliced.
type onlyWriter struct{ io.Writer }

// startSSH starts an sshd for this test alone, on loopback, and returns how to
// run a command through it over one connection.
func startSSH(b *testing.B) func(args ...string) *exec.Cmd {
	b.Helper()
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		b.Skip("no sshd here")
	}
	dir := b.TempDir()
	for _, key := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)).CombinedOutput(); err != nil {
			b.Skipf("ssh-keygen: %v: %s", err, out)
		}
	}
	l := listenTCP(b)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nPidFile none\nStrictModes no\nUsePAM no\n", port, dir, dir)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	os.MkdirAll("/run/sshd", 0o755)
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	if err := server.Start(); err != nil {
		b.Skipf("sshd: %v", err)
	}
	options := []string{"-F", "none", "-i", filepath.Join(dir, "user"), "-p", port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ControlMaster=auto", "-o", "ControlPersist=yes", "-o", "ControlPath=" + filepath.Join(dir, "mux")}
	ssh := func(args ...string) *exec.Cmd {
		return exec.Command("ssh", append(append(append([]string(nil), options...), "127.0.0.1", "--"), args...)...)
	}
	b.Cleanup(func() {
		exec.Command("ssh", append(append([]string(nil), options...), "-O", "exit", "127.0.0.1")...).Run()
		cancel()
		server.Wait()
	})
	for i := 0; ; i++ {
		out, err := ssh("true").CombinedOutput()
		if err == nil {
			return ssh
		}
		if i == 50 {
			b.Skipf("sshd does not answer: %v: %s", err, out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
