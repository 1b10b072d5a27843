package policy

import (
	"fmt"
	"path"
	"strings"
)

// maxDescribed bounds the words of a call that Describe is about.
const maxDescribed = 8

// Describe says how the words of a call are read, for people who compare them with
// rules. It is empty for a call that has none.
func Describe(c Call, w World) string {
	var parts []string
	switch {
	case c.Accept:
	case c.Dial || c.Listen:
		parts = append(parts, parseAddress(c.Network, c.Address).describe())
	case c.Program && len(c.Args) > 0:
		parts = append(parts, describeProgram(c)...)
	}
	for _, list := range [][]string{c.Reads, c.Writes} {
		for _, given := range list[:min(len(list), maxDescribed)] {
			parts = append(parts, describePath(given, w))
		}
	}
	return strings.Join(parts, "; ")
}

func describePath(given string, w World) string {
	t := resolve(given, w.Resolve)
	switch {
	case !path.IsAbs(given):
		return fmt.Sprintf("%.200q, relative to a home that rules do not know", given)
	case t.err != nil:
		return fmt.Sprintf("%.200q, which cannot be resolved: %v", given, t.err)
	case t.leadsElsewhere():
		return fmt.Sprintf("the path %.200q, which leads to %.200q", t.places[0], t.places[1])
	}
	return fmt.Sprintf("the path %.200q", t.places[0])
}

func describeProgram(c Call) []string {
	var parts []string
	switch {
	case c.relative():
		parts = append(parts, fmt.Sprintf("the program %.200q of a directory of the caller's choice", c.Args[0]))
	case path.IsAbs(c.Args[0]):
		parts = append(parts, fmt.Sprintf("the program %.200q", c.Args[0]))
	default:
		parts = append(parts, fmt.Sprintf("the program %.200q, looked up in PATH", c.Args[0]))
	}
	for _, arg := range c.Args[1:min(len(c.Args), maxDescribed)] {
		switch {
		case climbs(arg):
			parts = append(parts, fmt.Sprintf("%.200q, which no wildcard stands for, since it has an element ..", arg))
		case strings.HasPrefix(arg, "-"):
			parts = append(parts, fmt.Sprintf("the option %.200q", arg))
		case strings.Contains(arg, "/"):
			parts = append(parts, fmt.Sprintf("%.200q, of %d elements, each of which * may stand for", arg, strings.Count(arg, "/")+1))
		default:
			parts = append(parts, fmt.Sprintf("the word %.200q", arg))
		}
	}
	for _, e := range c.Env[:min(len(c.Env), maxDescribed)] {
		name, value, _ := strings.Cut(e, "=")
		what := "to be listed by env"
		if harmless(name, value) {
			what = "harmless"
		}
		parts = append(parts, fmt.Sprintf("the variable %.80q, %s", name, what))
	}
	return parts
}

// describe says what an address is taken for.
func (a address) describe() string {
	switch {
	case a.unclear != "":
		return "no address: " + a.unclear
	case a.network == "unix" || a.network == "unixgram":
		if strings.HasPrefix(a.path, "@") {
			return fmt.Sprintf("the abstract socket %.200q", a.path)
		}
		return fmt.Sprintf("the path %.200q of a socket", a.path)
	}
	port := "a port that is no number"
	if a.port >= 0 {
		port = fmt.Sprintf("port %d", a.port)
	}
	switch {
	case a.odd && a.ip.IsValid():
		return fmt.Sprintf("what may be the address %s, or a name; %s", a.ip, port)
	case a.odd:
		return "what is written like an address, and is none; " + port
	case a.ip.IsValid():
		return fmt.Sprintf("the address %s, %s", a.ip, port)
	case a.host == "":
		return "every address of the guest, " + port
	}
	return fmt.Sprintf("the name %.200q, %s", a.host, port)
}
