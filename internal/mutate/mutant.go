package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mutant is one change of a file: the bytes from start to end become text.
type mutant struct {
	path       string
	line       int
	start, end int
	text       string
	what       string // for people, such as "< becomes <="
}

// name names the mutant, the same as long as the line stays where it is.
func (m mutant) name(root string) string {
	path, err := filepath.Rel(root, m.path)
	if err != nil {
		path = m.path
	}
	return fmt.Sprintf("%s:%d: %s", filepath.ToSlash(path), m.line, m.what)
}

// apply returns the file's text with the change.
func (m mutant) apply() ([]byte, error) {
	src, err := os.ReadFile(m.path)
	if err != nil {
		return nil, err
	}
	return append(append(bytes.Clone(src[:m.start]), m.text...), src[m.end:]...), nil
}

// findMutants returns the mutants of the files that are built here, in order.
func findMutants(dir string) ([]mutant, error) {
	pkg, err := build.ImportDir(dir, 0)
	if err != nil {
		return nil, err
	}
	var all []mutant
	for _, name := range pkg.GoFiles {
		path := filepath.Join(dir, name)
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(src, []byte("// Code generated")) {
			continue
		}
		of, err := mutantsOf(path, src)
		if err != nil {
			return nil, err
		}
		all = append(all, of...)
	}
	return all, nil
}

// operators says what each operator becomes.
var operators = map[token.Token][]token.Token{
	token.EQL: {token.NEQ}, token.NEQ: {token.EQL},
	token.LSS: {token.LEQ, token.GEQ}, token.LEQ: {token.LSS, token.GTR},
	token.GTR: {token.GEQ, token.LEQ}, token.GEQ: {token.GTR, token.LSS},
	token.LAND: {token.LOR}, token.LOR: {token.LAND},
	token.ADD: {token.SUB}, token.SUB: {token.ADD},
	token.MUL: {token.QUO}, token.QUO: {token.MUL},
	token.AND: {token.OR}, token.OR: {token.AND},
	token.SHL: {token.SHR}, token.SHR: {token.SHL},
	token.INC: {token.DEC}, token.DEC: {token.INC},
	token.ADD_ASSIGN: {token.SUB_ASSIGN}, token.SUB_ASSIGN: {token.ADD_ASSIGN},
}

// finder collects the mutants of one file.
type finder struct {
	path string
	src  []byte
	set  *token.FileSet
	out  []mutant
}

func mutantsOf(path string, src []byte) ([]mutant, error) {
	f := &finder{path: path, src: src, set: token.NewFileSet()}
	file, err := parser.ParseFile(f.set, path, src, 0)
	if err != nil {
		return nil, err
	}
	ast.Inspect(file, f.visit)
	return f.out, nil
}

func (f *finder) add(pos, end token.Pos, text, what string) {
	p := f.set.Position(pos)
	f.out = append(f.out, mutant{path: f.path, line: p.Line, start: p.Offset, end: f.set.Position(end).Offset, text: text, what: what})
}

// operator adds what an operator at pos can become.
func (f *finder) operator(pos token.Pos, op token.Token) {
	for _, to := range operators[op] {
		f.add(pos, pos+token.Pos(len(op.String())), to.String(), op.String()+" becomes "+to.String())
	}
}

// text returns the source of a node on one short line.
func (f *finder) text(n ast.Node) string {
	s := strings.Join(strings.Fields(string(f.src[f.set.Position(n.Pos()).Offset:f.set.Position(n.End()).Offset])), " ")
	if len(s) > 60 {
		s = s[:57] + "..."
	}
	return s
}

func (f *finder) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		return n.Tok != token.IMPORT
	case *ast.BinaryExpr:
		if lit, ok := n.X.(*ast.BasicLit); !ok || lit.Kind != token.STRING {
			f.operator(n.OpPos, n.Op)
		}
	case *ast.IncDecStmt:
		f.operator(n.TokPos, n.Tok)
	case *ast.AssignStmt:
		f.operator(n.TokPos, n.Tok)
		if n.Tok == token.ASSIGN && len(n.Lhs) == 1 {
			if _, ok := n.Lhs[0].(*ast.SelectorExpr); ok {
				f.add(n.Pos(), n.End(), "", "without "+f.text(n))
			}
		}
	case *ast.UnaryExpr:
		if n.Op == token.NOT {
			f.add(n.Pos(), n.Pos()+1, "", "without ! in "+f.text(n))
		}
	case *ast.IfStmt:
		f.condition(n)
	case *ast.ExprStmt:
		if !isLog(n.X) {
			f.add(n.Pos(), n.End(), "", "without "+f.text(n))
		}
	case *ast.DeferStmt:
		f.add(n.Pos(), n.End(), "", "without "+f.text(n))
	case *ast.BasicLit:
		if v, err := strconv.ParseUint(n.Value, 0, 62); err == nil && n.Kind == token.INT {
			f.add(n.Pos(), n.End(), strconv.FormatUint(v+1, 10), n.Value+" becomes one more")
		}
	}
	return !isLogNode(n)
}

// condition has a condition always hold, and never.
func (f *finder) condition(n *ast.IfStmt) {
	for _, v := range []string{"true", "false"} {
		// The parts of the condition are still used, so that it compiles.
		text := "(" + string(f.src[f.set.Position(n.Cond.Pos()).Offset:f.set.Position(n.Cond.End()).Offset]) + ")"
		if v == "true" {
			text = "true || " + text
		} else {
			text = "false && " + text
		}
		f.add(n.Cond.Pos(), n.Cond.End(), text, "if "+f.text(n.Cond)+" becomes if "+v)
	}
}

// isLog reports whether a call only writes to a log.
func isLog(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	switch sel.Sel.Name {
	case "Debug", "Info", "Warn", "Error":
		return len(call.Args) > 0
	}
	return false
}

func isLogNode(n ast.Node) bool {
	e, ok := n.(ast.Expr)
	return ok && isLog(e)
}
