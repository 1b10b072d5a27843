package policy

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestMatchWord: what a wildcard in args stands for.
func TestMatchWord(t *testing.T) {
	for _, tt := range []struct {
		pattern, word string
		allow, deny   bool
	}{
		{"web", "web", true, true},
		{"web*", "web-1", true, true},
		{"*", "web", true, true},
		{"*", "", true, true},
		{"*", "/etc/shadow", false, true},
		{"*", "..", false, true},
		{"*", "-x", false, true},
		{"-*", "-x", true, true},
		{"**", "/etc/shadow", true, true},
		{"**", "/a/../etc/shadow", false, true},
		{"**", "--output=/x", false, true},
		{"/srv/*", "/srv/a", true, true},
		{"/srv/*", "/srv/..", false, true},
		{"/srv/*", "/srv/a/b", false, true},
		{"/srv/*", "/srv/../etc/shadow", false, true},
		{"/srv/**", "/srv/a/b", true, true},
		{"/srv/**", "/srv/a/../../etc", false, true},
		{"/srv/../*", "/srv/../a", true, true},
		{"/srv/?", "/srv//", false, true},
		{"/srv/a?c", "/srv/a/c", false, true},
		{"/**/x", "/a/b/x", true, true},
		{"/**/x", "/a/b/y", false, false},
		{"a**b*c", "a/b/bc", true, true},
		{"a**b*c", "a/b/c", false, true},
		{"--level=*", "--level=3", true, true},
		{"--level=*", "--level=../x", false, true},
	} {
		if got := matchArgs([]string{tt.pattern}, []string{tt.word}, false); got != tt.allow {
			t.Errorf("allow %q, %q: %t", tt.pattern, tt.word, got)
		}
		if got := matchArgs([]string{tt.pattern}, []string{tt.word}, true); got != tt.deny {
			t.Errorf("deny %q, %q: %t", tt.pattern, tt.word, got)
		}
	}
}

// TestGlobIsLinear: no pattern takes more than its length for each byte.
func TestGlobIsLinear(t *testing.T) {
	word := strings.Repeat("ab/", 40_000)
	for _, pattern := range []string{"**a*b*c", "*a*a*a*a*c", strings.Repeat("**b*", 10) + "c", "**/*/*/**c"} {
		if glob(pattern, word, "/") {
			t.Errorf("%q matches", pattern)
		}
	}
}

// FuzzGlob compares with a regular expression.
func FuzzGlob(f *testing.F) {
	f.Add("/a*/**b?", "/ax/y/zb1")
	f.Add("***", "/")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 30 || len(s) > 200 || !utf8.ValidString(pattern) || !utf8.ValidString(s) || strings.ContainsFunc(pattern+s, func(r rune) bool { return r > 127 }) {
			return
		}
		var expr strings.Builder
		expr.WriteString(`(?s)\A`)
		for i := 0; i < len(pattern); i++ {
			switch {
			case strings.HasPrefix(pattern[i:], "**"):
				expr.WriteString(`.*`)
				for i+1 < len(pattern) && pattern[i+1] == '*' {
					i++
				}
			case pattern[i] == '*':
				expr.WriteString(`[^/]*`)
			case pattern[i] == '?':
				expr.WriteString(`[^/]`)
			default:
				expr.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
			}
		}
		expr.WriteString(`\z`)
		if got, want := glob(pattern, s, "/"), regexp.MustCompile(expr.String()).MatchString(s); got != want {
			t.Errorf("glob(%q, %q) is %t", pattern, s, got)
		}
	})
}
