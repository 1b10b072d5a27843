package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestNothingInternalIsExposed shows that what a package for others exports can be used
// by others: no parameter, result or field is of a type that they cannot name.
func TestNothingInternalIsExposed(t *testing.T) {
	n := 0
	for _, dir := range []string{"transport", "transport/vmmtest", "transport/vsockdev", "rpc", "keys", "agent", "agent/access", "agent/audit",
		"agent/file", "agent/forward", "agent/policy", "agent/process", "guest", "guest/guesttest"} {
		files, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			n++
			for _, name := range exposed(f) {
				t.Errorf("%s: %s", path, name)
			}
		}
	}
	if n < 50 {
		t.Errorf("%d files", n)
	}
}

// exposed returns where the exported declarations of a file name types of packages that
// are internal.
func exposed(f *ast.File) (found []string) {
	internal := make(map[string]bool)
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil || !strings.Contains(path, "/internal/") {
			continue
		}
		name := path[strings.LastIndex(path, "/")+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		internal[name] = true
	}
	look := func(where string, n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			if field, ok := n.(*ast.Field); ok && len(field.Names) > 0 && !field.Names[0].IsExported() && strings.HasPrefix(where, "type ") {
				return false // of a struct
			}
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if pkg, ok := sel.X.(*ast.Ident); ok && internal[pkg.Name] {
					found = append(found, where+" has "+pkg.Name+"."+sel.Sel.Name)
				}
			}
			return true
		})
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && (d.Recv == nil || exportedReceiver(d.Recv)) {
				look("func "+d.Name.Name, d.Type)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() {
					look("type "+ts.Name.Name, ts.Type)
				}
			}
		}
	}
	return found
}

func exportedReceiver(recv *ast.FieldList) bool {
	e := recv.List[0].Type
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	id, ok := e.(*ast.Ident)
	return ok && id.IsExported()
}
