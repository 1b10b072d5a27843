package rules

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// reason is a constant that holds an error word.
var reason = regexp.MustCompile(`(?m)^\s+[rR]eason[A-Z]\w*\s+= "([a-z-]+)"`)

// TestErrorWords shows that docs/errors.md has each word.
func TestErrorWords(t *testing.T) {
	doc, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, dir := range []string{"agent", "guest", "cmd", "internal/archive"} {
		err := filepath.WalkDir("../../"+dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			src, err := os.ReadFile(path)
			for _, m := range reason.FindAllSubmatch(src, -1) {
				n++
				if !strings.Contains(string(doc), "`"+string(m[1])+"`") {
					t.Errorf("docs/errors.md lacks %q of %s", m[1], path)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n == 0 {
		t.Error("no words found")
	}
}
