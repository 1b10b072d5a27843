package vmtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shell returns a machine that a shell script plays; $0 is a file that is not
// there at first.
func shell(t *testing.T, script string) (*machine, *bytes.Buffer) {
	t.Helper()
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip(err)
	}
	var out bytes.Buffer
	return &machine{
		name:      "script",
		command:   []string{"/bin/sh", "-c", script, filepath.Join(t.TempDir(), "flag")},
		bootLimit: time.Minute,
		output:    &out,
	}, &out
}

// say returns a shell command that prints the marks of events.
func say(events ...Event) string {
	var s strings.Builder
	for _, e := range events {
		s.WriteString("printf '%s' '" + e.Mark() + "'\n")
	}
	return s.String()
}

func TestMachine(t *testing.T) {
	runs := []Run{{Name: "a"}, {Name: "b"}}
	start, done := Event{Kind: "start", Run: "a"}, Event{Kind: "done"}
	exit := func(run string, code int) Event { return Event{Kind: "exit", Run: run, Code: code} }
	const hang = "sleep 1000\n"
	for _, tt := range []struct {
		name, script string
		err          string // part of the error; empty: none
		out          string // part of the output
	}{
		{"Passed", "echo hello\n" + say(start, exit("a", 0), exit("b", 0), done), "", "hello\n"},
		{"EndsByItself", say(start, exit("a", 0), exit("b", 0), done) + hang, "", ""},
		{"Failed", say(start, exit("a", 0), exit("b", 1), done), "b: exit code 1", ""},
		{"NotRun", say(start, exit("a", 0), done), "b: not run", ""},
		{"MarkBehindOutput", "printf 'no newline'\n" + say(start, exit("a", 0), exit("b", 0), done), "", "no newline\n"},
		{"CarriageReturn", "printf 'line\\r\\n'\n" + say(start, exit("a", 0), exit("b", 0), done), "", "line\n"},
		{"Error", say(Event{Kind: "error", Text: "no module"}, done), "no module", ""},
		{"DiesBooting", "echo panic\n", "while booting", "panic\n"},
		{"DiesLater", say(start, exit("a", 0)), "the machine ended in a", ""},
		{"SecondBoot", "[ -e $0 ] || { : >$0; " + hang + "}\n" + say(start, exit("a", 0), exit("b", 0), done), "", "once more"},
		{"NeverBoots", hang, "boot hangs", "once more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, out := shell(t, tt.script)
			switch tt.name {
			case "NeverBoots":
				m.bootLimit = 10 * time.Millisecond
			case "SecondBoot":
				m.bootLimit = 5 * time.Second // enough for a shell on a busy machine
			}
			err := m.run(t.Context(), runs)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if !strings.Contains(out.String(), tt.out) {
				t.Errorf("output %q, want %q in it", out, tt.out)
			}
			if strings.Contains(out.String(), mark) {
				t.Errorf("output %q shows a mark", out)
			}
		})
	}
}

// TestMachineContext checks that the end of the context ends all processes of
// the machine: those hold the pipe that run reads.
func TestMachineContext(t *testing.T) {
	m, _ := shell(t, "sleep 1000 & "+say(Event{Kind: "start", Run: "a"})+"wait")
	cause := errors.New("too slow")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	m.output = writerFunc(func(p []byte) (int, error) {
		cancel(cause)
		return len(p), nil
	})
	if err := m.run(ctx, nil); err != cause {
		t.Errorf("error %v, want %v", err, cause)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
