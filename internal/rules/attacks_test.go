package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAttacks shows that each attack of docs/security.md has something that stops
// it, and a test that exists.
func TestAttacks(t *testing.T) {
	doc, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(doc), "| attack | what stops it | test |\n|---|---|---|\n")
	if !ok {
		t.Fatal("docs/security.md has no table of attacks")
	}
	test := regexp.MustCompile("`([a-z0-9/-]+)\\.(Test[A-Za-z0-9]+)`")
	rows := 0
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 {
			t.Errorf("%d cells: %s", len(cells), line)
			continue
		}
		tests := test.FindAllStringSubmatch(cells[2], -1)
		if strings.TrimSpace(cells[0]) == "" || strings.TrimSpace(cells[1]) == "" || len(tests) == 0 {
			t.Errorf("an empty cell: %s", line)
		}
		for _, m := range tests {
			if !hasFunc(t, filepath.Join("../..", m[1]), m[2]) {
				t.Errorf("%s has no %s", m[1], m[2])
			}
		}
	}
	if rows < 4 {
		t.Errorf("%d attacks", rows)
	}
}
