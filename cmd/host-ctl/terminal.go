package main

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/term"
)

// terminal is this process's terminal in raw mode.
type terminal struct {
	fd    int
	state *term.State
	once  sync.Once
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
	return &terminal{fd: fd, state: state}, nil
}

// restore sets the terminal as it was. It may be called more than once, and of
// nil.
func (t *terminal) restore() {
	if t != nil {
		t.once.Do(func() { term.Restore(t.fd, t.state) })
	}
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
