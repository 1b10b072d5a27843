package policy

import (
	"slices"
	"strings"
)

// match reports whether s is of a pattern, in which * stands for any run of
// bytes and ? for one byte. Its time is bounded by len(pattern) * len(s).
func match(pattern, s string) bool { return glob(pattern, s, "") }

// glob is match where * and ? stand for no byte of stops, and ** for any run.
// Its time is bounded by len(pattern) * len(s).
func glob(pattern, s, stops string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return pattern == s
	}
	// The places in the pattern where a match of what was read so far may stand.
	at, next := make([]bool, len(pattern)+1), make([]bool, len(pattern)+1)
	enter(pattern, at, 0)
	for i := range len(s) {
		clear(next)
		stop := strings.IndexByte(stops, s[i]) >= 0
		alive := false
		for p := range len(pattern) {
			if !at[p] {
				continue
			}
			switch c := pattern[p]; {
			case c == '*' && (!stop || isWide(pattern, p)):
				next[p] = true
				enter(pattern, next, p+1)
			case c == '*':
				continue
			case c == s[i] || c == '?' && !stop:
				enter(pattern, next, p+1)
			default:
				continue
			}
			alive = true
		}
		if !alive {
			return false
		}
		at, next = next, at
	}
	return at[len(pattern)]
}

// enter marks a place of a pattern, and what follows it where a * may stand for
// nothing.
func enter(pattern string, at []bool, p int) {
	for ; !at[p]; p++ {
		at[p] = true
		if p == len(pattern) || pattern[p] != '*' {
			return
		}
	}
}

// isWide reports whether the * at p is one of **.
func isWide(pattern string, p int) bool {
	return p+1 < len(pattern) && pattern[p+1] == '*' || p > 0 && pattern[p-1] == '*'
}

// matchWord reports whether an argument is of the word of a rule that allows. A
// wildcard does not go across /, stands for no element "..", and not for the -
// that makes an option of the word. ** goes across /.
func matchWord(pattern, word string) bool {
	switch {
	case !strings.ContainsAny(pattern, "*?"):
		return pattern == word
	case strings.HasPrefix(word, "-") && !strings.HasPrefix(pattern, "-"):
		return false
	case !climbs(pattern) && climbs(word):
		return false
	}
	return glob(pattern, word, "/")
}

// climbs reports whether a path has an element "..".
func climbs(s string) bool {
	for element := range strings.SplitSeq(s, "/") {
		if element == ".." {
			return true
		}
	}
	return false
}

// anyMore, as the last argument of a pattern, stands for any number of
// arguments, whatever they are.
const anyMore = "..."

// matchArgs reports whether args are of a pattern of one word for each. For a
// rule that denies, wildcards stand for everything.
func matchArgs(pattern, args []string, deny bool) bool {
	if n := len(pattern); n > 0 && pattern[n-1] == anyMore {
		pattern = pattern[:n-1]
		if len(args) < len(pattern) {
			return false
		}
		args = args[:len(pattern)]
	}
	if len(pattern) != len(args) {
		return false
	}
	for i, p := range pattern {
		if deny && !match(p, args[i]) || !deny && !matchWord(p, args[i]) {
			return false
		}
	}
	return true
}

// matchMethod reports whether a method is of a pattern: "Service/Method" or
// "package.Service/Method", with *.
func matchMethod(pattern, method string) bool {
	service, _, _ := strings.Cut(pattern, "/")
	if strings.Contains(service, ".") {
		return match(pattern, strings.TrimPrefix(method, "/"))
	}
	// Without a package it is one of ours: another program's service may have
	// the same name.
	return match("guest.v1."+pattern, strings.TrimPrefix(method, "/")) || pattern == "*"
}

// below reports whether a path is a root, or below one. Both are clean and
// absolute.
func below(roots []string, p string) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return within(root, p) })
}

// within reports whether p is dir, or beneath it.
func within(dir, p string) bool {
	return dir == "/" || p == dir || len(p) > len(dir) && p[len(dir)] == '/' && strings.HasPrefix(p, dir)
}
