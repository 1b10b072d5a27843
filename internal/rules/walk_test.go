package rules

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

// TestWalkOfACall: the functions that ARCHITECTURE.md names, as package.Func or
// package.Type.Method, exist.
func TestWalkOfACall(t *testing.T) {
	doc, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, walk, ok := strings.Cut(string(doc), "## A call, from end to end")
	if !ok {
		t.Fatal("there is no walk of a call")
	}
	walk, _, _ = strings.Cut(walk, "\n## ")
	name := regexp.MustCompile("`([a-z/-]+)\\.([A-Za-z.]+)`")
	n := 0
	for line := range strings.Lines(walk) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| |") {
			continue
		}
		m := name.FindAllStringSubmatch(line, -1)
		if len(m) == 0 {
			t.Errorf("no function in %q", line)
		}
		for _, m := range m {
			n++
			if m[1] == "grpc" || m[2] == "Cmd" {
				continue // a type, which the text speaks of
			}
			if !functionsOf(t, filepath.Join("../..", m[1]))[m[2]] {
				t.Errorf("%s has no %s", m[1], m[2])
			}
		}
	}
	if n < 20 {
		t.Errorf("%d functions", n)
	}
}

// functionsOf returns the functions of a package, methods as Type.Method.
func functionsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(files), err)
	}
	all := map[string]bool{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := fn.Name.Name
			if fn.Recv != nil {
				typ := fn.Recv.List[0].Type
				if star, ok := typ.(*ast.StarExpr); ok {
					typ = star.X
				}
				if id, ok := typ.(*ast.Ident); ok {
					name = id.Name + "." + name
				}
			}
			all[name] = true
		}
	}
	return all
}
