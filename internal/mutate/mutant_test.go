package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const source = `package p

import "log/slog"

const limit = 10

func f(n int, s *struct{ done bool }) bool {
	slog.Info("n", "n", n+1)
	if !s.done && n < limit {
		s.done = true
		n++
	}
	return n == 3
}
`

// module writes a module with one package and a test, and returns its directory.
func module(t *testing.T, test string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module p\n\ngo 1.26\n", "p.go": source, "p_test.go": test} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindMutants(t *testing.T) {
	dir := module(t, "package p\n")
	mutants, err := findMutants(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mutants {
		got = append(got, m.name(dir))
		text, err := m.apply()
		if err != nil || string(text) == source {
			t.Errorf("%s changes nothing: %v", m.what, err)
		}
	}
	want := []string{
		"p.go:5: 10 becomes one more",
		"p.go:9: if !s.done && n < limit becomes if true",
		"p.go:9: if !s.done && n < limit becomes if false",
		"p.go:9: && becomes ||",
		"p.go:9: without ! in !s.done",
		"p.go:9: < becomes <=",
		"p.go:9: < becomes >=",
		"p.go:10: without s.done = true",
		"p.go:11: ++ becomes --",
		"p.go:13: == becomes !=",
		"p.go:13: 3 becomes one more",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSample(t *testing.T) {
	all := make([]mutant, 100)
	for i := range all {
		all[i].line = i
	}
	a, b := sample(all, 10, 1), sample(all, 10, 1)
	if len(a) != 10 || !slices.Equal(a, b) {
		t.Errorf("two samples of one seed: %v, %v", a, b)
	}
	if slices.Equal(a, sample(all, 10, 2)) {
		t.Error("another seed draws the same")
	}
	if !slices.IsSortedFunc(a, func(x, y mutant) int { return x.line - y.line }) {
		t.Errorf("not in order: %v", a)
	}
	if len(sample(all, 0, 1)) != 100 || len(sample(all, 1000, 1)) != 100 {
		t.Error("not all of them")
	}
}

// TestRun shows each verdict on a real package.
func TestRun(t *testing.T) {
	dir := module(t, `package p

import "testing"

func TestF(t *testing.T) {
	s := &struct{ done bool }{}
	if !f(2, s) {
		t.Error("2")
	}
}
`)
	mutants, err := findMutants(dir)
	if err != nil {
		t.Fatal(err)
	}
	r := runner{root: dir, tests: []string{"./..."}, timeout: 60e9}
	if out, err := r.baseline(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := map[string]verdict{
		"p.go:11: ++ becomes --":                           noticed,
		"p.go:10: without s.done = true":                   survived,
		"p.go:9: if !s.done && n < limit becomes if false": noticed,
	}
	for _, m := range mutants {
		name := m.name(dir)
		w, ok := want[name]
		if !ok {
			continue
		}
		delete(want, name)
		if v, err := r.run(t.Context(), m); err != nil || v != w {
			t.Errorf("%s: %s, %v; want %s", name, v, err, w)
		}
	}
	if len(want) != 0 {
		t.Errorf("no mutants %v", want)
	}
	broken := mutants[0]
	broken.text = "("
	if v, err := r.run(t.Context(), broken); err != nil || v != invalid {
		t.Errorf("what does not compile: %s, %v", v, err)
	}
}
