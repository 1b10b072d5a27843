package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vsockrpc/vsockrpc/guest"
)

// A block is a fenced block of a document, or a span of code.
type block struct {
	where string // file and line
	lang  string
	text  string
	run   bool // it is marked to be run
	span  bool // it is a span
}

// runMark is the line before a block that is run.
const runMark = "<!-- run -->"

// docFiles are the documents for users.
func docFiles(t *testing.T) []string {
	t.Helper()
	files := []string{"../../README.md", "../../SECURITY.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/guides/*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	return files
}

// blocksOf returns the fenced blocks of a document, and the spans of code outside.
func blocksOf(t *testing.T, path string) (fenced, spans []block) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var current *block
	last := ""
	span := regexp.MustCompile("`([^`]+)`")
	for i, line := range strings.Split(string(data), "\n") {
		where := fmt.Sprintf("%s:%d", path, i+1)
		lang, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && current == nil:
			current = &block{where: where, lang: lang, run: last == runMark}
		case fence:
			fenced = append(fenced, *current)
			current = nil
		case current != nil:
			current.text += line + "\n"
		default:
			for _, m := range span.FindAllStringSubmatch(line, -1) {
				spans = append(spans, block{where: where, span: true, text: strings.ReplaceAll(m[1], `\|`, "|")})
			}
		}
		if line != "" {
			last = line
		}
	}
	return fenced, spans
}

// commandsOf returns the lines of a block that are commands.
func (b block) commandsOf() string {
	switch b.lang {
	case "", "sh", "bash":
		return b.text
	case "console":
		var commands strings.Builder
		for line := range strings.Lines(b.text) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				commands.WriteString(command)
			}
		}
		return commands.String()
	}
	return ""
}

// placeholder is an argument that stands for others.
var placeholder = regexp.MustCompile(`^\[?[A-Z]+\b|\.\.\.|^…`)

// TestDocsParse: each host-ctl of the documents has a verb and flags that there are, and
// each configuration file is one.
func TestDocsParse(t *testing.T) {
	commands, files := 0, 0
	for _, path := range docFiles(t) {
		fenced, spans := blocksOf(t, path)
		for _, b := range append(fenced, spans...) {
			if b.lang == "toml" && strings.Contains(b.text, "target") {
				files++
				if _, err := guest.ParseConfigFile(b.text); err != nil {
					t.Errorf("%s: the configuration file: %v", b.where, err)
				}
			}
			for _, args := range hostCtlCommands(t, b.commandsOf()) {
				if len(args) == 0 || placeholder.MatchString(strings.Join(args, " ")) || placeholder.MatchString(args[len(args)-1]) {
					continue
				}
				commands++
				// A span may name a flag alone.
				if err := parses(args); err != nil && !(b.span && strings.HasPrefix(err.Error(), "flag needs an argument")) {
					t.Errorf("%s: host-ctl %s: %v", b.where, strings.Join(args, " "), err)
				}
			}
		}
	}
	if commands < 100 || files < 2 {
		t.Errorf("%d commands and %d configuration files", commands, files)
	}
}

// forever are the verbs that end when they are interrupted, or wait for another machine.
var forever = regexp.MustCompile(`host-ctl (port-forward|proxy|watch|vsock-device)|rsync|alice@|sudo `)

// TestDocsRun runs the blocks that are marked with runMark, and the right columns of
// docs/habits.md, with an agent of the test as each guest. What a console block says is
// printed has to be printed; a line of "..." stands for any.
func TestDocsRun(t *testing.T) {
	dir := t.TempDir()
	n := 0
	add := func(b block) {
		if forever.MatchString(b.text) {
			return
		}
		n++
		name := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(strings.TrimPrefix(b.where, "../../")), "-"), "-")
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d.txtar", name, n)), []byte(scriptOf(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range docFiles(t) {
		fenced, spans := blocksOf(t, path)
		for _, b := range fenced {
			if b.run {
				add(b)
			}
		}
		if strings.HasSuffix(path, "/habits.md") {
			for _, b := range spans {
				if strings.HasPrefix(b.text, "host-ctl ") && strings.Count(b.text, " ") > 1 || b.text == "host-ctl list" {
					add(b)
				}
			}
		}
	}
	if n < 30 {
		t.Errorf("%d blocks are run", n)
	}
	params := scriptParams(dir)
	params.Cmds["tty"] = scriptTTY
	testscript.Run(t, params)
}

// scriptOf returns the script that runs a block.
func scriptOf(b block) string {
	rewrite := strings.NewReplacer(
		" 3 ", " web ", " 3:", " web:", " 3\n", " web\n", "vsock-mux:/run/fc.sock:1000", "web", "go run ./cmd/host-ctl", "host-ctl",
		"/srv", "$WORK/srv")
	var s strings.Builder
	s.WriteString(`agent $SOCKETS/a
exec sh -c 'printf "[guests.web]\ntarget = \"unix:%s/a\"\n[guests.db]\ntarget = \"unix:%s/a\"\n" $SOCKETS $SOCKETS > host-ctl/config.toml'
exec host-ctl exec -d --name job web echo done
exec host-ctl exec -d -i --name work web cat
exec host-ctl exec -d --name victim web sleep 600
exec host-ctl exec -d --name old web sleep 600
`)
	if strings.Contains(b.text, " -it ") || strings.HasPrefix(b.text, "host-ctl shell web") && !strings.Contains(b.text, "<") {
		s.WriteString("tty sh -e block.sh\n")
	} else {
		s.WriteString("exec sh -e block.sh\n")
	}
	if b.lang == "console" {
		for line := range strings.Lines(b.text) {
			if line = strings.TrimSuffix(line, "\n"); line != "" && line != "..." && !strings.HasPrefix(line, "$ ") {
				s.WriteString("stdout " + quoteScript("^"+strings.ReplaceAll(regexp.QuoteMeta(rewrite.Replace(line)), `\.\.\.`, ".*")+"$") + "\n")
			}
		}
	} else {
		b.lang = "sh"
	}
	s.WriteString("-- block.sh --\n" + rewrite.Replace(b.commandsOf()+"\n"))
	s.WriteString("-- host-ctl/empty --\n-- script.sh --\necho from the script\n-- file --\nx\n-- build.tar --\nx\n-- a --\n-- b --\n-- c --\n-- srv/app/main --\nx\n-- srv/new/x --\n-- srv/newer/x --\n")
	return s.String()
}

func quoteScript(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// scriptTTY runs a command on a terminal, whose user types exit: tty CMD ARG...
func scriptTTY(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: tty CMD ARG...")
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "WORK", "SOCKETS", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Env = append(cmd.Env, "TERM=dumb")
	f, err := pty.Start(cmd)
	ts.Check(err)
	defer f.Close()
	kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer kill.Stop()
	io.WriteString(f, "exit\n")
	out, _ := io.ReadAll(f) // EIO when the last process has closed it
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("%v: %s", err, out)
	}
}
