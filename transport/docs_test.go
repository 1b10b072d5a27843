package transport

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSocketsTable checks that every test that docs/sockets.md names exists,
// in this package or in its sub-packages, and that rows name one.
func TestSocketsTable(t *testing.T) {
	doc, err := os.ReadFile("../docs/sockets.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d test files, %v", len(files), err)
	}
	tests := map[string]bool{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				tests[fn.Name.Name] = true
			}
		}
	}
	_, table, ok := strings.Cut(string(doc), "| facility | C | Go (package transport) | test |\n")
	if !ok {
		t.Fatal("docs/sockets.md has no table")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	name := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)[`/]")
	rows := strings.Split(table, "\n")[1:]
	for _, row := range rows {
		named := name.FindAllStringSubmatch(row, -1)
		if len(named) == 0 {
			t.Errorf("no test in the row %s", row)
		}
		for _, m := range named {
			if !tests[m[1]] {
				t.Errorf("there is no %s, named in the row %s", m[1], row)
			}
		}
	}
	if len(rows) < 40 {
		t.Errorf("the table has %d rows", len(rows))
	}
}
