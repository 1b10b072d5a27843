//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// screen is a terminal with host-ctl on it, and what host-ctl has printed.
type screen struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	slave  *os.File
	before unix.Termios

	mu   sync.Mutex
	text []byte
	more chan struct{}
	done chan struct{}
}

// onTerminal starts host-ctl on a terminal.
func onTerminal(t *testing.T, args ...string) *screen {
	t.Helper()
	return commandOnTerminal(t, exec.Command(os.Args[0], args...))
}

// commandOnTerminal starts a command on a terminal.
func commandOnTerminal(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudoterminal: %v", err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 31, Cols: 97}); err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, master: master, slave: slave, more: make(chan struct{}, 1), done: make(chan struct{})}
	s.before = s.mode()
	s.cmd = cmd
	s.cmd.Env = append(os.Environ(), asHostCtl+"=1", "TERM=dumb")
	s.cmd.Stdin, s.cmd.Stderr = slave, slave
	if s.cmd.Stdout == nil {
		s.cmd.Stdout = slave
	}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go s.read()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.slave.Close()
		s.master.Close()
		<-s.done
	})
	return s
}

func (s *screen) read() {
	defer close(s.done)
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		s.text = append(s.text, buf[:n]...)
		s.mu.Unlock()
		select {
		case s.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (s *screen) mode() unix.Termios {
	s.t.Helper()
	mode, err := unix.IoctlGetTermios(int(s.slave.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *mode
}

func (s *screen) typed(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.master, text); err != nil {
		s.t.Fatal(err)
	}
}

// wait waits until the screen has a text after all that was waited for before.
func (s *screen) wait(text string) {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		s.mu.Lock()
		i := bytes.Index(s.text, []byte(text))
		if i >= 0 {
			s.text = s.text[i+len(text):]
		}
		seen := string(s.text)
		s.mu.Unlock()
		if i >= 0 {
			return
		}
		select {
		case <-s.more:
		case <-timeout:
			s.t.Fatalf("no %q on the screen: %q", text, seen)
		}
	}
}

// exit waits for host-ctl's end and checks its exit code, and that the terminal
// is as it was.
func (s *screen) exit(want int) {
	s.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			s.t.Fatal(err)
		}
	case <-time.After(time.Minute):
		s.t.Fatal("host-ctl does not end")
	}
	if got := s.cmd.ProcessState.ExitCode(); got != want {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Errorf("exit code %d (%v), want %d; screen: %q", got, s.cmd.ProcessState, want, s.text)
	}
	if got := s.mode(); got != s.before {
		s.t.Errorf("the terminal is left as %+v, was %+v", got, s.before)
	}
}

func (s *screen) raw() bool { return s.mode().Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0 }

// runProgram is a program for a terminal: it tells its size and its signals, and
// repeats what is typed.
func runProgram() int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGWINCH)
	size := func() {
		rows, columns, err := pty.Getsize(os.Stdin)
		fmt.Println("size", rows, columns, err)
	}
	size()
	lines := make(chan string)
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			lines <- in.Text()
		}
		close(lines)
	}()
	fmt.Println("ready")
	for {
		select {
		case line, ok := <-lines:
			fmt.Println("line:", line)
			if !ok {
				return 6
			}
			if line == "quit" {
				return 5
			}
		case sig := <-signals:
			switch sig {
			case syscall.SIGWINCH:
				size()
			case syscall.SIGTERM:
				fmt.Println("got", sig)
				return 3
			default:
				fmt.Println("got", sig)
			}
		}
	}
}

func TestTerminal(t *testing.T) {
	addr := tempAgent(t)
	program := []string{"exec", "-it", "-e", asProgram + "=1", addr, os.Args[0]}
	t.Run("size, raw mode, input, exit code", func(t *testing.T) {
		s := onTerminal(t, program...)
		s.wait("size 31 97")
		s.wait("ready")
		if !s.raw() {
			t.Error("the terminal is not raw")
		}
		s.typed("hello\r")
		s.wait("line: hello")
		s.typed("quit\r")
		s.exit(5)
	})
	t.Run("resize", func(t *testing.T) {
		s := onTerminal(t, program...)
		s.wait("ready")
		if err := pty.Setsize(s.master, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
			t.Fatal(err)
		}
		s.wait("size 40 120")
		s.typed("quit\r")
		s.exit(5)
	})
	t.Run("Ctrl-C goes to the guest", func(t *testing.T) {
		s := onTerminal(t, program...)
		s.wait("ready")
		s.typed("\x03")
		s.wait("got interrupt")
		s.typed("quit\r")
		s.exit(5)
	})
	t.Run("Ctrl-D ends input", func(t *testing.T) {
		s := onTerminal(t, program...)
		s.wait("ready")
		s.typed("\x04")
		s.exit(6)
	})
	t.Run("~. breaks off", func(t *testing.T) {
		s := onTerminal(t, program...)
		s.wait("ready")
		s.typed("a~.b\r")
		s.wait("line: a~.b")
		s.typed("~~x\r")
		s.wait("line: ~x")
		s.typed("~?")
		s.wait("suspend host-ctl")
		s.typed("~.")
		s.wait("\r\nhost-ctl: broke off")
		s.exit(129)
	})
	t.Run("~^Z suspends", func(t *testing.T) {
		s := commandOnTerminal(t, exec.Command("sh", append([]string{"-c", `set -m; "$@"; echo "is stopped"; stty -g >/dev/null; fg >/dev/null`, "sh", os.Args[0]}, program...)...))
		s.wait("ready")
		s.typed("one\r")
		s.wait("line: one")
		s.typed("~\x1a")
		s.wait("is stopped")
		wait.For(t, "the terminal is raw again", s.raw)
		s.typed("quit\r")
		s.exit(5)
	})
	t.Run("~. without a terminal of the command's", func(t *testing.T) {
		s := onTerminal(t, "exec", "-i", addr, "sh", "-c", "echo ready; cat; sleep 1000")
		s.wait("ready")
		s.typed("~.\n")
		s.exit(129)
	})
	t.Run("messages begin a line", func(t *testing.T) {
		s := onTerminal(t, "exec", "-it", "--timeout", "200ms", addr, "sh", "-c", "printf ready; exec sleep 1000")
		s.wait("ready\r\nhost-ctl: ")
		s.exit(124)
	})
	t.Run("a disk that is full", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err)
		}
		defer full.Close()
		cmd := exec.Command(os.Args[0], "exec", "-it", addr, "sh", "-c", "while :; do echo output; done")
		cmd.Stdout = full
		s := commandOnTerminal(t, cmd)
		s.wait("no space left on device")
		s.exit(125)
	})
	t.Run("the end of stdin comes again", func(t *testing.T) {
		cmd := exec.Command(os.Args[0], "exec", "-it", addr, "sh", "-c", "cat; echo first; cat; exit 7")
		cmd.Env = append(os.Environ(), asHostCtl+"=1")
		if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("%v, %s", err, out)
		}
	})
	t.Run("a signal to host-ctl goes to the guest", func(t *testing.T) {
		s := onTerminal(t, program...)
		s.wait("ready")
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.wait("got terminated")
		s.exit(3)
	})
	t.Run("a second signal breaks off", func(t *testing.T) {
		s := onTerminal(t, "exec", "-it", addr, "sh", "-c", "trap '' TERM HUP QUIT; echo ready; while :; do sleep 0.1; done")
		s.wait("ready")
		s.cmd.Process.Signal(syscall.SIGTERM)
		// Two signals that are pending at once would be one.
		s.cmd.Process.Signal(syscall.SIGQUIT)
		s.exitOneOf(128+15, 128+3)
	})
	t.Run("the terminal goes", func(t *testing.T) {
		s := onTerminal(t, program...)
		s.wait("ready")
		s.cmd.Process.Signal(syscall.SIGHUP)
		s.exit(129)
	})
	t.Run("the command is missing", func(t *testing.T) {
		s := onTerminal(t, "exec", "-it", addr, "no-such-command")
		s.exit(127)
	})
	t.Run("without -i the terminal stays as it is", func(t *testing.T) {
		s := onTerminal(t, "exec", "-t", addr, "sh", "-c", "echo ready; exec sleep 1000")
		s.wait("ready")
		if s.mode() != s.before {
			t.Error("the terminal was changed")
		}
		s.typed("\x03") // is a signal here, which is forwarded
		s.exit(130)
	})
	t.Run("shell", func(t *testing.T) {
		s := onTerminal(t, "shell", addr)
		s.typed("echo $((6*7))-is-the-answer; exit 9\r")
		s.wait("42-is-the-answer")
		s.exit(9)
	})
	t.Run("detached, and attached to", func(t *testing.T) {
		g := dialTest(t, addr)
		k := g.Command(t.Context(), os.Args[0])
		k.ExtraEnv = []string{asProgram + "=1"}
		k.Detach, k.Name = true, "attached-to"
		k.Terminal = &guest.Terminal{Rows: 24, Columns: 80}
		if err := k.Start(); err != nil {
			t.Fatal(err)
		}
		s := onTerminal(t, "attach", addr, "attached-to")
		s.wait("size 31 97") // as this terminal, not as the session was started
		s.typed("\r~.")
		s.wait("host-ctl attach " + addr + " s")
		s.exit(129)
		// It still runs, has what was typed, and draws the screen again.
		s = onTerminal(t, "attach", addr, "attached-to")
		s.wait("size 31 97")
		s.typed("quit\r")
		s.wait("line: quit")
		s.exit(5)
	})
}

// exitOneOf is exit for a race of two signals.
func (s *screen) exitOneOf(codes ...int) {
	s.t.Helper()
	s.cmd.Wait()
	for _, c := range codes {
		if s.cmd.ProcessState.ExitCode() == c {
			s.exitMode()
			return
		}
	}
	s.t.Errorf("exit code %v, want one of %v", s.cmd.ProcessState, codes)
}

func (s *screen) exitMode() {
	if got := s.mode(); got != s.before {
		s.t.Errorf("the terminal is left as %+v, was %+v", got, s.before)
	}
}

// TestSignals has host-ctl without a terminal.
func TestSignals(t *testing.T) {
	addr := tempAgent(t)
	run := func(t *testing.T, script string, signals ...os.Signal) (string, int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "exec", addr, "sh", "-c", script)
		cmd.Env = append(os.Environ(), asHostCtl+"=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ready := make([]byte, len("ready\n"))
		if _, err := io.ReadFull(out, ready); err != nil {
			t.Fatal(err)
		}
		for _, sig := range signals {
			cmd.Process.Signal(sig)
		}
		rest, _ := io.ReadAll(out)
		cmd.Wait()
		// A shell may say that the signal has ended what it ran; host-ctl says nothing.
		if strings.Contains(stderr.String(), "host-ctl") {
			t.Errorf("stderr: %s", stderr.String())
		}
		return string(rest), cmd.ProcessState.ExitCode()
	}
	t.Run("SIGINT is the command's", func(t *testing.T) {
		if _, code := run(t, "trap 'exit 7' INT; echo ready; while :; do sleep 0.1; done", os.Interrupt); code != 7 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("SIGTERM reaches all of the group", func(t *testing.T) {
		out, code := run(t, `trap 'wait; echo parent; exit 4' TERM; sh -c 'trap "echo child; exit 0" TERM; echo ready; while :; do sleep 0.1; done' & wait`, syscall.SIGTERM)
		if !strings.Contains(out, "child") || !strings.Contains(out, "parent") || code != 4 {
			t.Errorf("got %q, exit code %d", out, code)
		}
	})
	t.Run("SIGTERM ends a command that obeys", func(t *testing.T) {
		if _, code := run(t, "echo ready; exec sleep 1000", syscall.SIGTERM); code != 128+15 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("nobody reads the output", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "exec", addr, "yes")
		cmd.Env = append(os.Environ(), asHostCtl+"=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 10))
		out.Close()
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 128+13 || stderr.Len() > 0 {
			t.Errorf("exit code %d, stderr %q", code, stderr.String())
		}
	})
}
