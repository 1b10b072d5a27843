package policy

import (
	"fmt"
	"path"
	"slices"
	"strings"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// suggest returns the lines of a rule that would allow a call, and little more.
func suggest(c *asked) []string {
	var lines []string
	list := func(name string, words ...string) { lines = append(lines, name+" = "+quote(words)) }
	switch {
	case c.Program && len(c.Args) > 0 && !c.LoginShell && !c.OwnName && !c.relative():
		lines = append(lines, "args = ["+quote(c.Args)+"]")
		lines = append(lines, suggestSetting(c)...)
	case c.Files && len(c.Reads)+len(c.Writes) > 0:
		list("methods", short(c.Method))
		if len(c.Writes) > 0 {
			list("write", directories(c, c.Reads, c.Writes)...)
		} else {
			list("read", directories(c, c.Reads)...)
		}
	case c.Dial:
		list("dial", c.address.String())
	case c.Listen && c.Address != "":
		list("listen", c.address.String())
	default:
		list("methods", short(c.Method))
	}
	if !c.Subject {
		return lines
	}
	user := c.User
	if user == "" {
		user = "root"
		if c.world.UserID != nil {
			if id, err := c.world.UserID(""); err == nil {
				user = fmt.Sprint(id)
			}
		}
	}
	list("users", user)
	if c.Group != "" {
		list("groups", c.Group)
	}
	if c.Program && len(c.Limits) > 0 {
		list("limits", c.Limits...)
	}
	return lines
}

// suggestSetting returns the lines about what a program runs with.
func suggestSetting(c *asked) []string {
	var lines, env []string
	for _, e := range c.Env {
		if name, value, _ := strings.Cut(e, "="); !harmless(name, value) && len(env) <= maxSuggested {
			env = append(env, name)
		}
	}
	if c.ClearEnv {
		env = []string{"*"}
	}
	if len(env) > 0 {
		lines = append(lines, "env = "+quote(env))
	}
	if path.IsAbs(c.Dir) {
		lines = append(lines, "dir = "+quote([]string{path.Clean(c.Dir)}))
	}
	if c.Umask != nil && *c.Umask != defaultUmask {
		lines = append(lines, fmt.Sprintf("umask = [\"%03o\"]", *c.Umask))
	}
	return lines
}

// maxSuggested bounds what a remedy looks at, of any kind.
const maxSuggested = 16

// directories returns the directories in which a call works, as rules name them.
func directories(c *asked, lists ...[]string) []string {
	paths := slices.Concat(lists...)
	if len(paths) > maxSuggested {
		return []string{"/DIRECTORY"}
	}
	var dirs []string
	add := func(dir string) {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, p := range paths {
		if len(p) > MaxPath || !path.IsAbs(p) {
			add("/DIRECTORY")
			continue
		}
		places := c.resolve(p).places
		if !below(c.named, places[0]) {
			places = places[:1] // where it leads is nobody's business who may not look there
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

// maxQuoted bounds what a remedy repeats of a call, in bytes.
const maxQuoted = 300

// quote returns words as a list in TOML, and looks at no more of them than it
// returns.
func quote(words []string) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, word := range words {
		if b.Len()+len(word) > maxQuoted {
			return "[ what the call names ]"
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", word)
	}
	b.WriteByte(']')
	return b.String()
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
