package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// visible makes text of a guest harmless to a terminal: control characters but
// newline and tab, bytes that are not UTF-8, and the characters that reorder
// text become escapes such as \x1b and \u202e. It is the only way on which
// names and messages of a guest may reach a terminal (CVE-2021-25743). What is longer
// than maxText is cut.
func visible(s string) string { return escape(clip(s, maxText), false) }

// visibleLine is visible for text that must stay on one line and in one column.
func visibleLine(s string) string { return escape(clip(s, maxText), true) }

func escape(s string, oneLine bool) string {
	clean := true
	for i := 0; i < len(s) && clean; i++ {
		clean = s[i] >= ' ' && s[i] < 0x7f
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !oneLine && (r == '\n' || r == '\t'):
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case misleading(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

// misleading reports whether a terminal may act on r, or show text out of order
// because of it: C1 controls, and the directional formatting characters.
func misleading(r rune) bool {
	switch {
	case r >= 0x80 && r <= 0x9f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return r == 0x061c || r == 0x200e || r == 0x200f || r == 0x2028 || r == 0x2029
}

// visibleJSON does for JSON what visible does for text: encoding/json leaves
// DEL, C1 and directional characters, which stand in strings only, as they are.
func visibleJSON(data []byte) []byte {
	if !bytes.ContainsFunc(data, func(r rune) bool { return r == 0x7f || misleading(r) }) {
		return data
	}
	var b bytes.Buffer
	for _, r := range string(data) {
		if r == 0x7f || misleading(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.Bytes()
}

// printVisible prints to w what a guest may have had a hand in.
func printVisible(w io.Writer, format string, args ...any) error {
	_, err := io.WriteString(w, visible(fmt.Sprintf(format, args...)))
	return err
}
