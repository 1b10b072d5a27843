package rules

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// source calls f with each line of the program text below directories, tests left
// out.
func source(t *testing.T, dirs []string, f func(where, line string)) {
	t.Helper()
	n := 0
	for _, dir := range dirs {
		err := filepath.WalkDir("../../"+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			n++
			src, err := os.ReadFile(path)
			for line := range strings.Lines(string(src)) {
				f(path, line)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n == 0 {
		t.Error("no program text found")
	}
}

// starts is what starts a program by way of os/exec or a shell.
var starts = regexp.MustCompile(`\bexec\.Command|\bos\.StartProcess\(|"(/bin/)?(sh|bash|ash|dash)"|"-c"`)

// loginShell is the shell of a user who has no line in passwd, for a caller who
// asks for a login shell.
const loginShell = `Shell: "/bin/sh"}`

// TestNoShell shows that the agent starts what a caller has asked for and nothing
// else: no shell, no program that it looks for by itself.
func TestNoShell(t *testing.T) {
	source(t, []string{"agent", "cmd/guest-agent", "internal/archive", "keys", "internal/reload", "transport", "rpc"}, func(where, line string) {
		if starts.MatchString(line) && !strings.Contains(line, loginShell) && !strings.HasPrefix(strings.TrimSpace(line), "//") {
			t.Errorf("%s: %s", where, line)
		}
	})
}

// raw is a system call that makes a descriptor; package os makes its own with
// O_CLOEXEC.
var raw = regexp.MustCompile(`\b(unix|syscall)\.(Open|Openat|Openat2|Socket|Socketpair|Pipe|Pipe2|Accept|Accept4|InotifyInit|InotifyInit1|EventfdCreate|Eventfd|MemfdCreate|EpollCreate|EpollCreate1|PidfdOpen|Dup|Dup2)\(`)

// TestCloseOnExec shows that no program which the agent or host-ctl starts inherits
// a descriptor that was not meant for it.
func TestCloseOnExec(t *testing.T) {
	source(t, []string{"agent", "cmd", "guest", "internal/archive", "keys", "internal/reload", "transport", "rpc"}, func(where, line string) {
		if raw.MatchString(line) && !strings.Contains(line, "CLOEXEC") && !strings.Contains(line, "PidfdOpen") {
			t.Errorf("%s: %s", where, line)
		}
	})
}
