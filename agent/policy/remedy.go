package policy

import (
	"fmt"
	"path"
	"slices"
	"strings"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// suggest returns the lines of a rule that would allow a call, and little more.
func suggest(c Call, w World) []string {
	var lines []string
	list := func(name string, words ...string) { lines = append(lines, fmt.Sprintf("%s = %s", name, quote(words))) }
	switch {
	case c.Program && len(c.Args) > 0 && !c.LoginShell && !c.OwnName && !c.Relative:
		lines = append(lines, fmt.Sprintf("args = [%s]", quote(c.Args)))
		if env := needsLeave(c.Env); len(env) > 0 {
			list("env", env...)
		}
	case c.Files && len(c.Reads)+len(c.Writes) > 0:
		list("methods", short(c.Method))
		if len(c.Writes) > 0 {
			list("write", directories(c, w, slices.Concat(head(c.Reads), head(c.Writes)))...)
		} else {
			list("read", directories(c, w, head(c.Reads))...)
		}
	case c.Dial:
		list("dial", destination(c.Network, c.Address))
	case c.Listen && c.Address != "":
		list("listen", destination(c.Network, c.Address))
	default:
		list("methods", short(c.Method))
	}
	if !c.Subject {
		return lines
	}
	user := c.User
	if user == "" {
		user = "root"
		if w.UserID != nil {
			if id, err := w.UserID(""); err == nil {
				user = fmt.Sprint(id)
			}
		}
	}
	list("users", user)
	if c.Group != "" {
		list("groups", c.Group)
	}
	return lines
}

// maxNamed bounds the paths, and the variables, that a remedy is made of.
const maxNamed = 8

func head(words []string) []string { return words[:min(len(words), maxNamed)] }

// needsLeave returns the first variables of a call that are not harmless.
func needsLeave(env []string) []string {
	var names []string
	for _, name := range env {
		if len(names) == maxNamed {
			break
		}
		if !matchAny(harmlessEnv, name) {
			names = append(names, name)
		}
	}
	return names
}

// directories returns the directories in which a call works, as rules name them.
func directories(c Call, w World, paths []string) []string {
	var dirs []string
	add := func(dir string) {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, p := range paths {
		if !path.IsAbs(p) {
			add("/DIRECTORY")
			continue
		}
		places := []string{path.Clean(p)}
		if w.Resolve != nil {
			if real, err := w.Resolve(places[0]); err == nil {
				places = append(places, real)
			}
		}
		for _, dir := range places {
			// A file is named by the directory that it is in.
			if c.Method != guestv1.FileService_List_FullMethodName && path.Dir(dir) != "/" {
				dir = path.Dir(dir)
			}
			add(dir)
		}
	}
	return dirs
}

// maxQuoted bounds what a remedy repeats of a call.
const maxQuoted = 300

// quote returns words as a list in TOML.
func quote(words []string) string {
	var quoted []string
	n := 0
	for _, word := range words {
		if n += len(word) + 2; n > maxQuoted {
			return "[ what the call names ]"
		}
		quoted = append(quoted, fmt.Sprintf("%q", word))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// joinRole says how a caller without a role gets one.
func joinRole(who Caller) string {
	key := who.Name
	if key == "" {
		key = who.Fingerprint
	}
	var ways []string
	if who.Fingerprint != "" {
		ways = append(ways, fmt.Sprintf("keys = [%q]", key))
	}
	if len(who.Peers) > 0 {
		ways = append(ways, fmt.Sprintf("peers = [%q]", who.Peers[0]))
	}
	if len(ways) == 0 {
		return "give a role of the policy keys or peers that name the caller"
	}
	return "give a role of the policy " + strings.Join(ways, " or ")
}

func describe(who Caller) string {
	var words []string
	if who.Fingerprint != "" {
		words = append(words, strings.TrimSpace("key "+who.Name+" "+who.Fingerprint))
	}
	if len(who.Peers) > 0 {
		words = append(words, strings.Join(who.Peers, ", "))
	}
	if len(words) == 0 {
		return "known by nothing"
	}
	return strings.Join(words, "; ")
}
