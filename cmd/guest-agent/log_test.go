//go:build linux

package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestJournalHandler(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(newJournalHandler(&buf, slog.LevelDebug))
	log.Debug("d")
	log.Info("i", "key", "two\nlines")
	log.Warn("w")
	log.With("with", 1).Error("e")
	log.WithGroup("g").Info("i", "level", "kept")
	want := strings.Join([]string{
		`<7>msg=d`,
		`<6>msg=i key="two\nlines"`,
		`<4>msg=w`,
		`<3>msg=e with=1`,
		`<6>msg=i g.level=kept`,
		``,
	}, "\n")
	if got := buf.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestJournalHandlerConcurrently: each line has its own priority.
func TestJournalHandlerConcurrently(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(newJournalHandler(&buf, slog.LevelInfo))
	var wg sync.WaitGroup
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		wg.Go(func() {
			for range 200 {
				log.With("x", 1).Log(t.Context(), level, level.String())
			}
		})
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSpace(buf.String()), "\n")
	if len(lines) != 600 {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		switch line {
		case "<6>msg=INFO x=1", "<4>msg=WARN x=1", "<3>msg=ERROR x=1":
		default:
			t.Fatalf("line %q", line)
		}
	}
}

func TestNewLogger(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	here := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	for stream, journal := range map[string]bool{here: true, here + "0": false, "": false, "x:y": false, "1": false} {
		if got := isJournal(f, stream); got != journal {
			t.Errorf("JOURNAL_STREAM=%q: got %t", stream, got)
		}
	}
	newLogger(f, here, slog.LevelWarn).Info("left out")
	newLogger(f, here, slog.LevelWarn).Warn("to the journal")
	newLogger(f, "", slog.LevelWarn).Warn("to a file")
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) != 3 || lines[0] != `<4>msg="to the journal"` || !strings.HasPrefix(lines[1], "time=") || !strings.Contains(lines[1], "level=WARN") {
		t.Errorf("log:\n%s", b)
	}
}
