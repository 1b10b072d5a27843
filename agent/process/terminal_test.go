//go:build linux

package process

import (
	"strings"
	"testing"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// terminal is a spec on a terminal of 24 rows and 80 columns.
func terminal(spec *guestv1.SessionSpec) *guestv1.SessionSpec {
	spec.Terminal = &guestv1.Terminal{Size: &guestv1.WindowSize{Rows: 24, Columns: 80}}
	return spec
}

// untilOutput takes responses until stdout holds text.
func (s *stream) untilOutput(t *testing.T, text string) {
	t.Helper()
	if err := s.until(func() bool { return strings.Contains(string(s.out[stdout]), text) }); err != nil {
		t.Fatalf("waiting for %q in %q: %v", text, s.out[stdout], err)
	}
}

func TestTerminal(t *testing.T) {
	c := newCarrier(t, nil)
	spec := terminal(shell(`test -t 0 && test -t 1 && test -t 2 && echo "term $TERM"; echo err >&2; exit 4`))
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.out[stdout]), "term xterm-256color\r\nerr\r\n"; got != want {
		t.Errorf("the terminal shows %q, want %q", got, want)
	}
	if s.eof[stderr] || len(s.out[stderr]) > 0 {
		t.Errorf("stderr of a terminal: %q, ended %v", s.out[stderr], s.eof[stderr])
	}
	if s.exit.GetCode() != 4 || s.exit.OutputHeldOpen || !s.opened.Session.Terminal || !s.opened.Session.Stdin {
		t.Errorf("exit %v of %v, want code 4 of a terminal", s.exit, s.opened.Session)
	}
}

func TestTerminalName(t *testing.T) {
	c := newCarrier(t, nil)
	spec := terminal(shell("echo $TERM"))
	spec.Terminal.Term = "dumb"
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(s.out[stdout]); got != "dumb\r\n" {
		t.Errorf("TERM is %q, want dumb", got)
	}
}

func TestTerminalResize(t *testing.T) {
	c := newCarrier(t, nil)
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: terminal(helper(t, "winsize"))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.untilOutput(t, "24 80")
	for _, size := range []*guestv1.WindowSize{{Rows: 50, Columns: 132}, {Rows: 1, Columns: 1}, {Rows: 1 << 20, Columns: 7}} {
		err := s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_WindowSize{WindowSize: size}})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.untilOutput(t, "65535 7")
}

func TestTerminalEndOfFile(t *testing.T) {
	c := newCarrier(t, nil)
	for _, in := range []string{"", "a line\n", "no newline"} {
		spec := terminal(shell("cat >/dev/null; echo done"))
		spec.Stdin = true
		s, err := c.run(testContext(t), spec, in)
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if !strings.Contains(string(s.out[stdout]), "done") || s.exit.GetCode() != 0 {
			t.Errorf("%q: the terminal shows %q, exit %v", in, s.out[stdout], s.exit)
		}
	}
}

func TestTerminalInterrupt(t *testing.T) {
	c := newCarrier(t, nil)
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: terminal(helper(t, "forever"))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.untilOutput(t, "ready")
	if err := s.input(0, []byte{3}, false); err != nil { // ^C
		t.Fatal(err)
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if s.exit.Signal != 2 {
		t.Errorf("exit %v, want signal 2", s.exit)
	}
}

// A shell with job control gives each job a group of its own; when the owner
// leaves, all of them go.
func TestTerminalHangUp(t *testing.T) {
	c := newCarrier(t, nil)
	exe := helper(t, "stubborn")
	spec := terminal(shell(`set -m; "$HELPER" & "$HELPER" & wait`))
	spec.Env = append(exe.Env, append([]byte("HELPER="), exe.Args[0]...))
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := s.until(func() bool { return strings.Count(string(s.out[stdout]), "ready") == 2 }); err != nil {
		t.Fatal(err)
	}
	members := (&family{pid: int(s.opened.Session.Pid)}).members()
	groups := make(map[int]bool)
	for _, m := range members {
		groups[m.group] = true
	}
	if len(members) != 3 || len(groups) != 3 {
		t.Fatalf("members %+v, want a shell and two jobs in groups of their own", members)
	}
	if err := s.leave(false); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		gone(t, m.pid)
	}
}

func TestTerminalSurvivesItsClient(t *testing.T) {
	c := newCarrier(t, nil)
	id := newID()
	spec := terminal(shell("read a; echo got $a"))
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: id, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	s, err = c.exec(testContext(t), &guestv1.Open{SessionId: id, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := s.input(0, []byte("it\n"), false); err != nil {
		t.Fatal(err)
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(s.out[stdout]), "got it\r\n") {
		t.Errorf("the terminal shows %q", s.out[stdout])
	}
}

func TestLoginShell(t *testing.T) {
	c := newCarrier(t, nil)
	dir := t.TempDir()
	passwd := write(t, "passwd", "root:x:0:0::"+dir+":/bin/sh\nother:x:12345:12345::/:\n", 0o644)
	c.srv.accounts.Passwd = passwd
	if c.srv.uid != 0 {
		t.Skip("needs root")
	}
	s, err := c.run(testContext(t), terminal(&guestv1.SessionSpec{LoginShell: true, Args: args("-c", "echo $0; pwd")}), "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.out[stdout]), "-sh\r\n"+dir+"\r\n"; got != want {
		t.Errorf("the login shell says %q, want %q", got, want)
	}
}

// TestRedraw: a size that the terminal has already is seen as a change.
func TestRedraw(t *testing.T) {
	c := newCarrier(t, nil)
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: terminal(helper(t, "winsize"))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.untilOutput(t, "24 80")
	if err := s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_WindowSize{WindowSize: &guestv1.WindowSize{Rows: 24, Columns: 80, Redraw: true}}}); err != nil {
		t.Fatal(err)
	}
	// A program that is slow sees the last of the changes only.
	if err := s.until(func() bool { return strings.Count(string(s.out[stdout]), "24 80") == 2 }); err != nil {
		t.Fatal(err)
	}
}
