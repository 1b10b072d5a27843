//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// newLogger makes the logger of the daemon. If stderr goes to the journal it
// writes priorities in front of the records, as sd-daemon(3) describes, and
// leaves the time to the journal.
func newLogger(stderr *os.File, journalStream string, level slog.Leveler) *slog.Logger {
	if isJournal(stderr, journalStream) {
		return slog.New(newJournalHandler(stderr, level))
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
}

// isJournal reports whether f is the stream that JOURNAL_STREAM names by its
// device and inode. The variable alone proves nothing: it is inherited.
func isJournal(f *os.File, journalStream string) bool {
	var dev, ino uint64
	if _, err := fmt.Sscanf(journalStream, "%d:%d", &dev, &ino); err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && uint64(st.Dev) == dev && st.Ino == ino
}

// journalHandler writes "<6>msg=..." lines.
type journalHandler struct {
	slog.Handler
	out *prefixWriter
}

// prefixWriter puts a prefix before what is written, in one write.
type prefixWriter struct {
	w      io.Writer
	mu     sync.Mutex // held from the choice of the prefix to the write
	prefix string
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.w, p.prefix+string(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func newJournalHandler(w io.Writer, level slog.Leveler) *journalHandler {
	out := &prefixWriter{w: w}
	return &journalHandler{out: out, Handler: slog.NewTextHandler(out, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	})}
}

// Handle writes a record with its priority.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.prefix = priority(r.Level)
	return h.Handler.Handle(ctx, r)
}

// WithAttrs returns a handler for records with more attributes.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{Handler: h.Handler.WithAttrs(attrs), out: h.out}
}

// WithGroup returns a handler for records in a group.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{Handler: h.Handler.WithGroup(name), out: h.out}
}

// priority returns the prefix of syslog's level that l comes nearest to.
func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "<3>"
	case l >= slog.LevelWarn:
		return "<4>"
	case l >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

// oneLine makes joined errors fit for a terminal's line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
