package reload

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTooLarge: a file that is too large is as one that does not parse.
func TestTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for size, ok := range map[int]bool{maxFile: true, maxFile + 1: false} {
		if err := os.WriteFile(path, []byte(strings.Repeat("x", size)), 0o600); err != nil {
			t.Fatal(err)
		}
		value, have, err := New(Config[string]{Path: path, Parse: parseWord}).Get()
		if have != ok || (err == nil) != ok || ok && len(value) != size {
			t.Errorf("%d bytes: %v, %v", size, have, err)
		}
	}
}
