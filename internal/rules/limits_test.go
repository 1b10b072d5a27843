package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLimits shows that each limit of docs/limits.md has a default, a reason, what
// becomes of a caller, and a test that exists.
func TestLimits(t *testing.T) {
	doc, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	test := regexp.MustCompile("^`([a-z0-9/-]+)\\.(Test[A-Za-z0-9]+)`$")
	rows := 0
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| limit ") {
			continue
		}
		rows++
		if len(cells) != 6 {
			t.Errorf("%d cells: %s", len(cells), line)
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[0] == "" || cells[1] == "" || cells[4] == "" {
			t.Errorf("an empty cell: %s", line)
		}
		m := test.FindStringSubmatch(cells[5])
		if m == nil {
			t.Errorf("%s: the test is %q", cells[0], cells[5])
			continue
		}
		if !hasFunc(t, filepath.Join("../..", m[1]), m[2]) {
			t.Errorf("%s: %s has no %s", cells[0], m[1], m[2])
		}
	}
	if rows < 40 {
		t.Errorf("%d limits", rows)
	}
}

// hasFunc reports whether a test file of a directory has a test.
func hasFunc(t *testing.T, dir, name string) bool {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(src), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
