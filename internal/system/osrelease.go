//go:build linux

package system

import (
	"path/filepath"
	"strings"
)

// OSRelease holds fields of os-release(5), unquoted.
type OSRelease struct {
	ID         string
	VersionID  string
	PrettyName string
}

// readOSRelease reads the file where os-release(5) says that it is.
func readOSRelease(root string) OSRelease {
	for _, path := range []string{"etc/os-release", "usr/lib/os-release"} {
		if b := readFile(filepath.Join(root, path)); b != nil {
			return ParseOSRelease(text(b))
		}
	}
	return OSRelease{}
}

// ParseOSRelease parses an os-release file: lines NAME=value, the value quoted
// as for a shell. Lines that are something else are skipped, and of several
// with one name the last counts, as in a shell.
func ParseOSRelease(s string) OSRelease {
	var r OSRelease
	for line := range strings.Lines(s) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		switch name {
		case "ID":
			r.ID = unquote(value)
		case "VERSION_ID":
			r.VersionID = unquote(value)
		case "PRETTY_NAME":
			r.PrettyName = unquote(value)
		}
	}
	return r
}

// unquote undoes a shell's quoting, of which os-release(5) allows: none, single
// quotes, or double quotes, and in the last a backslash before $ " \ or `.
func unquote(s string) string {
	var b strings.Builder
	var quote byte // the quote that is open, or 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'' && i+1 < len(s) && (quote == 0 || strings.IndexByte("$\"\\`", s[i+1]) >= 0):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
