package audit

import (
	"regexp"
	"slices"
	"strings"
)

// hidden stands for what is left out.
const hidden = "[redacted]"

var (
	// secretName finds words for secrets in the names of options and variables.
	secretName = regexp.MustCompile(`(?i)passw|passphrase|secret|token|credential|api[-_]?key|access[-_]?key|private[-_]?key|auth(orization)?$|^-{0,2}(pw|pwd|psk)$`)
	// userInfo finds the password in a URL.
	userInfo = regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+@`)
	// header finds the value of an HTTP header that authenticates.
	header = regexp.MustCompile(`(?i)((?:authorization|cookie|x-[a-z-]*(?:token|key)):\s*).+`)
	// bearer finds tokens of the usual forms, wherever they stand.
	bearer = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}`)
)

// Redact returns args without what looks like a secret: the value of NAME=VALUE
// and --name=VALUE, and the word after --name or -p, where the name is one for
// secrets; passwords in URLs; tokens in HTTP headers.
func Redact(args []string) []string {
	if args == nil {
		return nil
	}
	out := slices.Clone(args)
	next := false
	for i, a := range out {
		if next {
			next = false
			if i > 0 && !strings.HasPrefix(a, "-") {
				out[i] = hidden
				continue
			}
		}
		name, _, assigned := strings.Cut(a, "=")
		switch {
		case assigned && !strings.ContainsAny(name, " \t\n;&|") && !(i > 0 && script.MatchString(args[i-1])) && secretName.MatchString(name):
			// Rather too much than too little: a value may have spaces in it.
			out[i] = name + "=" + hidden
		case strings.HasPrefix(a, "-") && !assigned && (secretName.MatchString(a) || a == "-p"):
			next = true
		default:
			a = userInfo.ReplaceAllString(a, "${1}"+hidden+"@")
			a = header.ReplaceAllString(a, "${1}"+hidden)
			a = bearer.ReplaceAllString(a, "${1} "+hidden)
			out[i] = inner(a)
		}
	}
	return out
}

// script is the option of a shell whose value is a command line.
var script = regexp.MustCompile(`^-[A-Za-z]*c$`)

// value is a word of a shell, with quotes; one that is cut off ends with the text.
const value = `(?:\\.|"(?:\\.|[^"\\])*(?:"|$)|'[^']*(?:'|$)|[^\s"'\\;&|])+`

// assignment finds NAME=VALUE, and option --NAME VALUE, inside of an argument,
// as in sh -c.
var (
	assignment = regexp.MustCompile(`([A-Za-z0-9_-]+)(=)` + value)
	option     = regexp.MustCompile(`(--?[A-Za-z0-9_-]+)(\s+)` + value)
)

// inner redacts the command lines in an argument that is one.
func inner(a string) string {
	if !strings.ContainsAny(a, " \t\n;&|=") {
		return a
	}
	for _, re := range []*regexp.Regexp{option, assignment} {
		a = re.ReplaceAllStringFunc(a, func(s string) string {
			m := re.FindStringSubmatch(s)
			if !secretName.MatchString(m[1]) {
				return s
			}
			return m[1] + m[2] + hidden
		})
	}
	return a
}
