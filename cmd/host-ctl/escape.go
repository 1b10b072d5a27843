package main

import "io"

// escapes is what an escapeReader does.
type escapes struct {
	breakOff func() // called once; the reader then ends
	suspend  func()
	help     func()
}

// escapeReader passes what is typed on, and watches for escapes at the start of a
// line, as in ssh: "~." breaks off, "~^Z" suspends this process, "~?" lists them, and
// "~~" is one "~".
type escapeReader struct {
	r       io.Reader
	raw     bool // the terminal sends a byte for ^Z
	escapes escapes

	state escapeState
	held  []byte // to be returned before more is read
	err   error
}

type escapeState int

const (
	lineStart  escapeState = iota // at the start of a line; the first byte is
	afterTilde                    // a "~" at the start of a line is held back
	inLine
)

const ctrlZ = 'Z' & 0x1f

// Read implements io.Reader.
func (e *escapeReader) Read(p []byte) (int, error) {
	for len(e.held) == 0 {
		if e.err != nil {
			return 0, e.err
		}
		n, err := e.r.Read(p)
		e.err = err
		e.held = e.filter(p[:n])
	}
	n := copy(p, e.held)
	e.held = e.held[n:]
	return n, nil
}

// filter returns what is to be passed on of what was typed.
func (e *escapeReader) filter(typed []byte) []byte {
	var out []byte
	for _, b := range typed {
		if e.state == afterTilde {
			e.state = inLine
			switch {
			case b == '.':
				e.err = io.EOF
				e.escapes.breakOff()
				return out
			case b == '?':
				e.state = lineStart
				e.escapes.help()
				continue
			case b == ctrlZ && e.raw:
				e.state = lineStart
				e.escapes.suspend()
				continue
			case b == '~':
				out = append(out, '~')
				continue
			}
			out = append(out, '~')
		}
		switch {
		case e.state == lineStart && b == '~':
			e.state = afterTilde
			continue
		case b == '\r' || b == '\n':
			e.state = lineStart
		default:
			e.state = inLine
		}
		out = append(out, b)
	}
	if e.err != nil && e.state == afterTilde {
		out = append(out, '~')
	}
	return out
}
