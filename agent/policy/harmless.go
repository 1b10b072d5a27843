package policy

import "strings"

// harmlessEnv are the variables that a rule with args lets every caller set, with
// the reason why a program takes no orders from a plain word in them. LANGUAGE is
// not among them, of which gettext makes paths of message catalogues, nor is any
// variable that names a file.
var harmlessEnv = map[string]string{
	"TERM":      "names an entry of the system's terminal database",
	"COLORTERM": "says that there are colors",
	"NO_COLOR":  "says that there are to be none",
	"COLUMNS":   "a number",
	"LINES":     "a number",
	"TZ":        "names a time zone, without / none that has a file of its own choice",
	"LANG":      "names an installed locale, as do the following",

	"LC_ALL": "", "LC_COLLATE": "", "LC_CTYPE": "", "LC_MESSAGES": "", "LC_MONETARY": "", "LC_NUMERIC": "", "LC_TIME": "",
	"LC_ADDRESS": "", "LC_IDENTIFICATION": "", "LC_MEASUREMENT": "", "LC_NAME": "", "LC_PAPER": "", "LC_TELEPHONE": "",
}

// maxHarmless is the longest harmless value.
const maxHarmless = 64

// harmless reports whether a variable may be set without a rule that lists it: its
// name is in harmlessEnv, and its value is a short plain word, which is neither a
// path nor a format.
func harmless(name, value string) bool {
	if _, ok := harmlessEnv[name]; !ok || len(value) > maxHarmless || strings.Contains(value, "..") || strings.HasPrefix(value, ".") {
		return false
	}
	for _, c := range []byte(value) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.,@+", c) >= 0) {
			return false
		}
	}
	return true
}
