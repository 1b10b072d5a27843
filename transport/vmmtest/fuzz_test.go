package vmmtest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// Whatever is sent as a CONNECT line, no byte behind the line is read, and at
// most 32.
func FuzzReadConnect(f *testing.F) {
	for _, line := range []string{"CONNECT 1000\nrest", "connect 0\n", "CONNECT 4294967295\n", "CONNECT\n", "\n", "CONNECT 1", strings.Repeat("9", 40)} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		r := bytes.NewReader(input)
		port, err := readConnect(r)
		line, _, found := bytes.Cut(input, []byte("\n"))
		read := len(input) - r.Len()
		if want := min(len(input), maxLine, len(line)+1); read != want {
			t.Fatalf("read %d bytes of %q, want %d", read, input, want)
		}
		if err == nil && (!found || !strings.HasPrefix(strings.ToLower(strings.TrimSpace(string(line))), "connect")) {
			t.Fatalf("took %q as port %d", input, port)
		}
		again, err := readConnect(strings.NewReader(fmt.Sprintf("CONNECT %d\n", port)))
		if err != nil || again != port {
			t.Fatalf("port %d became %d, %v", port, again, err)
		}
	})
}
