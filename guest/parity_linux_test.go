package guest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

// command is what exec.Cmd and guest.Cmd have in common as methods.
type command interface {
	Run() error
	Start() error
	Wait() error
	Output() ([]byte, error)
	CombinedOutput() ([]byte, error)
	StdinPipe() (io.WriteCloser, error)
	StdoutPipe() (io.ReadCloser, error)
	StderrPipe() (io.ReadCloser, error)
	String() string
}

var (
	_ command = (*exec.Cmd)(nil)
	_ command = (*guest.Cmd)(nil)
)

// fields are the fields that they have in common.
type fields struct {
	path           string
	args           []string
	env            []string
	dir            string
	stdin          io.Reader
	stdout, stderr io.Writer
	cancel         func(signal func(os.Signal) error) error
	waitDelay      time.Duration
}

// runner makes commands of one of the two packages.
type runner struct {
	make   func(ctx context.Context, f fields, name string, arg ...string) command
	signal func(command, os.Signal) error
	kill   func(command) error
}

func local() runner {
	return runner{
		make: func(ctx context.Context, f fields, name string, arg ...string) command {
			c := exec.CommandContext(ctx, name, arg...)
			c.Env, c.Dir, c.Stdin, c.Stdout, c.Stderr, c.WaitDelay = f.env, f.dir, f.stdin, f.stdout, f.stderr, f.waitDelay
			if f.path != "" {
				c.Path, c.Args, c.Err = f.path, f.args, nil
			}
			if f.cancel != nil {
				c.Cancel = func() error { return f.cancel(c.Process.Signal) }
			}
			return c
		},
		signal: func(c command, sig os.Signal) error { return c.(*exec.Cmd).Process.Signal(sig) },
		kill:   func(c command) error { return c.(*exec.Cmd).Process.Kill() },
	}
}

func remote(g *guest.Guest) runner {
	return runner{
		make: func(ctx context.Context, f fields, name string, arg ...string) command {
			c := g.Command(ctx, name, arg...)
			c.Env, c.Dir, c.Stdin, c.Stdout, c.Stderr, c.WaitDelay = f.env, f.dir, f.stdin, f.stdout, f.stderr, f.waitDelay
			if f.path != "" {
				c.Path, c.Args = f.path, f.args
			}
			if f.cancel != nil {
				c.Cancel = func() error { return f.cancel(c.Process.Signal) }
			}
			return c
		},
		signal: func(c command, sig os.Signal) error { return c.(*guest.Cmd).Process.Signal(sig) },
		kill:   func(c command) error { return c.(*guest.Cmd).Process.Kill() },
	}
}

// result describes an error so that those of both packages compare.
func result(err error) string {
	var local *exec.ExitError
	var remote *guest.ExitError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &local):
		return fmt.Sprintf("%v, code %d, stderr %q", local, local.ExitCode(), local.Stderr)
	case errors.As(err, &remote):
		return fmt.Sprintf("%v, code %d, stderr %q", remote, remote.ExitCode(), remote.Stderr)
	}
	for _, known := range []error{exec.ErrNotFound, exec.ErrWaitDelay, fs.ErrNotExist, fs.ErrPermission, syscall.ENOEXEC, syscall.ENOTDIR,
		syscall.EINVAL, os.ErrClosed, os.ErrProcessDone, context.Canceled, context.DeadlineExceeded, errSink} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return err.Error()
}

var errSink = errors.New("the sink is full")

// sink fails after so many bytes.
type sink struct{ left int }

func (s *sink) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		return 0, errSink
	}
	return len(p), nil
}

// TestParity runs one table of cases against os/exec and against this package.
func TestParity(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"plain": "no program", "noexec": "#!/bin/sh\n", "lost": "#!/no/such/interpreter\n", "script": "#!/bin/sh\necho script $0 $1\n"} {
		mode := fs.FileMode(0o755)
		if name == "noexec" {
			mode = 0o644
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	ctx := t.Context()
	path := []string{"PATH=" + os.Getenv("PATH")}

	tests := []struct {
		name string
		run  func(r runner) string
	}{
		{"run", func(r runner) string { return result(r.make(ctx, fields{}, "true").Run()) }},
		{"exit code", func(r runner) string { return result(r.make(ctx, fields{}, "sh", "-c", "exit 7").Run()) }},
		{"exit code 255", func(r runner) string { return result(r.make(ctx, fields{}, "sh", "-c", "exit 255").Run()) }},
		{"signal", func(r runner) string { return result(r.make(ctx, fields{}, "sh", "-c", "kill -TERM $$").Run()) }},
		{"killed", func(r runner) string { return result(r.make(ctx, fields{}, "sh", "-c", "kill -9 $$").Run()) }},
		{"output", func(r runner) string {
			out, err := r.make(ctx, fields{}, "sh", "-c", "echo out; echo err >&2; exit 3").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"output with much stderr", func(r runner) string {
			_, err := r.make(ctx, fields{}, "sh", "-c", "i=0; while [ $i -lt 9000 ]; do echo line $i; i=$((i+1)); done >&2; exit 1").Output()
			return result(err)
		}},
		{"combined output", func(r runner) string {
			out, err := r.make(ctx, fields{}, "sh", "-c", "echo 1; echo 2 >&2; echo 3; echo 4 >&2").CombinedOutput()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"output when stdout is set", func(r runner) string {
			_, err := r.make(ctx, fields{stdout: io.Discard}, "true").Output()
			return result(err)
		}},
		{"combined when stderr is set", func(r runner) string {
			_, err := r.make(ctx, fields{stderr: io.Discard}, "true").CombinedOutput()
			return result(err)
		}},
		{"stdin", func(r runner) string {
			out, err := r.make(ctx, fields{stdin: strings.NewReader("some input")}, "cat").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"no stdin", func(r runner) string {
			out, err := r.make(ctx, fields{}, "cat").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"empty stdin", func(r runner) string {
			out, err := r.make(ctx, fields{stdin: strings.NewReader("")}, "wc", "-c").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"stdin not read", func(r runner) string {
			return result(r.make(ctx, fields{stdin: bytes.NewReader(make([]byte, 8<<20))}, "true").Run())
		}},
		{"stdin fails", func(r runner) string {
			return result(r.make(ctx, fields{stdin: io.MultiReader(strings.NewReader("x"), failingReader{})}, "cat").Run())
		}},
		{"stdin is a file", func(r runner) string {
			f, err := os.Open(in("script"))
			if err != nil {
				return err.Error()
			}
			defer f.Close()
			out, err := r.make(ctx, fields{stdin: f}, "cat").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"stdout is a file", func(r runner) string {
			f, err := os.CreateTemp(dir, "out")
			if err != nil {
				return err.Error()
			}
			defer f.Close()
			err = r.make(ctx, fields{stdout: f, stderr: f}, "sh", "-c", "echo a; echo b >&2; echo c").Run()
			out, _ := os.ReadFile(f.Name())
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"large output", func(r runner) string {
			out, err := r.make(ctx, fields{stdin: bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), 1<<18))}, "cat").Output()
			return fmt.Sprintf("%d %s", len(out), result(err))
		}},
		{"stdout fails", func(r runner) string {
			return result(r.make(ctx, fields{stdout: &sink{left: 3}}, "sh", "-c", "echo 12345").Run())
		}},
		{"stdout fails, and the command writes without end", func(r runner) string {
			return result(r.make(ctx, fields{stdout: &sink{left: 100_000}}, "yes").Run())
		}},
		{"stdout pipe closed early", func(r runner) string {
			c := r.make(ctx, fields{}, "yes")
			p, err := c.StdoutPipe()
			if err != nil {
				return err.Error()
			}
			started := c.Start()
			got := make([]byte, 10)
			io.ReadFull(p, got)
			return fmt.Sprintf("%s %q %s %s", result(started), got, result(p.Close()), result(c.Wait()))
		}},
		{"not found", func(r runner) string { return result(r.make(ctx, fields{}, "no-such-command").Run()) }},
		{"no such file", func(r runner) string { return result(r.make(ctx, fields{}, in("missing")).Run()) }},
		{"not executable", func(r runner) string { return result(r.make(ctx, fields{}, in("noexec")).Run()) }},
		{"a directory", func(r runner) string { return result(r.make(ctx, fields{}, dir).Run()) }},
		{"bad format", func(r runner) string { return result(r.make(ctx, fields{}, in("plain")).Run()) }},
		{"no interpreter", func(r runner) string { return result(r.make(ctx, fields{}, in("lost")).Run()) }},
		{"script", func(r runner) string {
			out, err := r.make(ctx, fields{}, in("script"), "arg").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"no command", func(r runner) string { return result(r.make(ctx, fields{}, "").Run()) }},
		{"no such directory", func(r runner) string {
			return result(r.make(ctx, fields{dir: in("missing")}, "/bin/sh").Run())
		}},
		{"directory", func(r runner) string {
			out, err := r.make(ctx, fields{dir: "/usr"}, "pwd").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"environment", func(r runner) string {
			out, err := r.make(ctx, fields{env: append(path, "A=1", "B=two words", "A=2")}, "sh", "-c", "env | grep -v -e ^_ -e ^PWD | sort").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"argv", func(r runner) string {
			out, err := r.make(ctx, fields{}, "printf", "<%s>", "", "a b", "new\nline", "\xff\xfe", "$HOME", "*").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"argv[0]", func(r runner) string {
			out, err := r.make(ctx, fields{path: "/bin/sh", args: []string{"myname", "-c", "echo $0"}}, "x").Output()
			return fmt.Sprintf("%q %s", out, result(err))
		}},
		{"zero byte", func(r runner) string { return result(r.make(ctx, fields{}, "echo", "a\x00b").Run()) }},
		{"string", func(r runner) string { return r.make(ctx, fields{}, "/bin/echo", "a", "b").String() }},
		{"start twice", func(r runner) string {
			c := r.make(ctx, fields{}, "true")
			return result(c.Start()) + "; " + result(c.Start()) + "; " + result(c.Wait())
		}},
		{"wait twice", func(r runner) string {
			c := r.make(ctx, fields{}, "true")
			return result(c.Run()) + "; " + result(c.Wait())
		}},
		{"wait before start", func(r runner) string { return result(r.make(ctx, fields{}, "true").Wait()) }},
		{"stdin pipe", func(r runner) string {
			c := r.make(ctx, fields{}, "cat")
			in, err := c.StdinPipe()
			if err != nil {
				return err.Error()
			}
			var out bytes.Buffer
			p, err := c.StdoutPipe()
			if err != nil {
				return err.Error()
			}
			started := c.Start()
			io.WriteString(in, "one ")
			io.WriteString(in, "two")
			closed := in.Close()
			again := in.Close()
			_, copied := io.Copy(&out, p)
			return fmt.Sprint(result(started), result(closed), result(again), result(copied), out.String(), result(c.Wait()))
		}},
		{"pipes after start", func(r runner) string {
			c := r.make(ctx, fields{}, "true")
			started := c.Start()
			_, in := c.StdinPipe()
			_, out := c.StdoutPipe()
			_, errp := c.StderrPipe()
			return fmt.Sprint(result(started), in, out, errp, result(c.Wait()))
		}},
		{"pipes twice", func(r runner) string {
			c := r.make(ctx, fields{stdout: io.Discard, stdin: strings.NewReader("")}, "true")
			_, in := c.StdinPipe()
			_, out := c.StdoutPipe()
			return fmt.Sprint(in, out)
		}},
		{"stderr pipe", func(r runner) string {
			c := r.make(ctx, fields{}, "sh", "-c", "echo e >&2; exit 2")
			p, err := c.StderrPipe()
			if err != nil {
				return err.Error()
			}
			started := c.Start()
			got, read := io.ReadAll(p)
			waited := c.Wait()
			_, after := p.Read(make([]byte, 1))
			return fmt.Sprintf("%s %q %s %s %s", result(started), got, result(read), result(waited), result(after))
		}},
		{"signal sent", func(r runner) string {
			c := r.make(ctx, fields{}, "sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done")
			p, err := c.StdoutPipe()
			if err != nil {
				return err.Error()
			}
			started := c.Start()
			io.ReadFull(p, make([]byte, 6))
			sent := r.signal(c, syscall.SIGUSR1)
			io.Copy(io.Discard, p)
			waited := c.Wait()
			return fmt.Sprint(result(started), result(sent), result(waited), result(r.signal(c, syscall.SIGTERM)))
		}},
		{"kill", func(r runner) string {
			c := r.make(ctx, fields{}, "sleep", "60")
			return result(c.Start()) + result(r.kill(c)) + result(c.Wait())
		}},
		{"context done before", func(r runner) string {
			done, cancel := context.WithCancel(ctx)
			cancel()
			return result(r.make(done, fields{}, "true").Run())
		}},
		{"context canceled", func(r runner) string {
			running, cancel := context.WithCancel(ctx)
			defer cancel()
			c := r.make(running, fields{}, "sleep", "60")
			started := c.Start()
			cancel()
			return result(started) + result(c.Wait())
		}},
		{"context deadline", func(r runner) string {
			running, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			return result(r.make(running, fields{}, "sleep", "60").Run())
		}},
		{"cancel by a signal that is obeyed", func(r runner) string {
			running, cancel := context.WithCancel(ctx)
			defer cancel()
			c := r.make(running, fields{cancel: func(signal func(os.Signal) error) error { return signal(syscall.SIGTERM) }},
				"sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
			p, err := c.StdoutPipe()
			if err != nil {
				return err.Error()
			}
			started := c.Start()
			io.ReadFull(p, make([]byte, 6))
			cancel()
			io.Copy(io.Discard, p)
			return result(started) + result(c.Wait())
		}},
		{"cancel that fails", func(r runner) string {
			running, cancel := context.WithCancel(ctx)
			defer cancel()
			c := r.make(running, fields{cancel: func(func(os.Signal) error) error { return errSink }}, "sleep", "0.5")
			started := c.Start()
			cancel()
			return result(started) + result(c.Wait())
		}},
		{"a signal that is not obeyed, and WaitDelay", func(r runner) string {
			running, cancel := context.WithCancel(ctx)
			defer cancel()
			c := r.make(running, fields{waitDelay: 300 * time.Millisecond, cancel: func(signal func(os.Signal) error) error { return signal(syscall.SIGTERM) }},
				"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
			p, err := c.StdoutPipe()
			if err != nil {
				return err.Error()
			}
			started := c.Start()
			io.ReadFull(p, make([]byte, 6))
			cancel()
			return result(started) + result(c.Wait())
		}},
		{"output held open, and WaitDelay", func(r runner) string {
			var out bytes.Buffer
			c := r.make(ctx, fields{stdout: &out, waitDelay: 200 * time.Millisecond}, "sh", "-c", "echo x; sleep 3 & exit 0")
			err := c.Run()
			return out.String() + result(err)
		}},
	}
	g := dialAgent(t, startAgent(t))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want, got := tt.run(local()), tt.run(remote(g))
			if got != want {
				t.Errorf("differs from os/exec:\n got %s\nwant %s", got, want)
			}
		})
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errSink }
