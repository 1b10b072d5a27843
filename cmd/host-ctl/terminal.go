package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/term"
)

// terminal is this process's terminal in raw mode.
type terminal struct {
	fd    int
	state *term.State

	mu  sync.Mutex
	raw bool
}

// makeRaw sets the terminal f raw, until restore. It returns nil if f is none.
func makeRaw(f *os.File) (*terminal, error) {
	fd := int(f.Fd())
	if !term.IsTerminal(fd) {
		return nil, nil
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	return &terminal{fd: fd, state: state, raw: true}, nil
}

// restore sets the terminal as it was. It may be called more than once, and of
// nil.
func (t *terminal) restore() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw {
		t.raw = false
		term.Restore(t.fd, t.state)
	}
}

// suspend stops this process, with the terminal as it was, until it is continued.
func (t *terminal) suspend() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.raw {
		return
	}
	term.Restore(t.fd, t.state)
	stopSelf()
	if _, err := term.MakeRaw(t.fd); err != nil {
		t.raw = false
	}
}

// isRaw reports whether lines need a carriage return.
func (t *terminal) isRaw() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.raw
}

// freshLines writes messages to a terminal that may be raw: each begins at the start
// of a line, whatever the command has printed before.
type freshLines struct {
	w   io.Writer
	tty *terminal
	col *atomic.Bool // the last line of the command has not ended
}

func (f *freshLines) Write(b []byte) (int, error) {
	text := b
	if f.col.Swap(false) {
		text = append([]byte("\n"), text...)
	}
	if f.tty.isRaw() {
		text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	}
	if _, err := f.w.Write(text); err != nil {
		return 0, err
	}
	return len(b), nil
}

// windowSize returns the size of this process's terminal, if it has one.
func (c *cli) windowSize() (rows, columns int, ok bool) {
	files := []*os.File{c.stdin}
	for _, w := range []any{c.stdout, c.stderr} {
		if f, isFile := w.(*os.File); isFile {
			files = append(files, f)
		}
	}
	for _, f := range files {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil {
			return rows, columns, true
		}
	}
	return 0, 0, false
}

// isTerminal reports whether v is a file that is a terminal.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
