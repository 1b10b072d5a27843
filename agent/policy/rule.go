package policy

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// defaultUmask is that of a program whose caller asks for none.
const defaultUmask = 0o022

// names reports whether a rule is about a method.
func (r *Rule) names(method string) bool {
	return len(r.Methods) == 0 || slices.ContainsFunc(r.Methods, func(m string) bool { return matchMethod(m, method) })
}

// bind notes what holds for a call that r allows; nil is a profile, which binds
// nothing.
func (r *Rule) bind(c *asked, d *Decision) {
	if r == nil {
		return
	}
	switch {
	case len(r.Read) == 0 && len(r.Write) == 0:
	case len(c.Writes) > 0:
		d.Dirs = r.Write
	default:
		d.Dirs = slices.Concat(r.Read, r.Write)
	}
	d.NoLinks = d.NoLinks || len(r.dial)+len(r.listen) > 0
	d.NoCore = len(r.Args) > 0 && !listed(r.Limits, "core")
}

// misses returns why a rule that allows is not about a call, empty if it is.
func (r *Rule) misses(c *asked) string {
	if c.Unseen && (len(r.Args)+len(r.Users)+len(r.Read)+len(r.Write)+len(r.Dial)+len(r.Listen) > 0) {
		return "the request could not be looked at"
	}
	for _, check := range []func(*asked) string{r.missesArgs, r.missesUser, r.missesFiles, r.missesAddress} {
		if why := check(c); why != "" {
			return why
		}
	}
	return ""
}

// ownSession reports whether a call is about a session that the caller has
// started, under whatever rule allowed that.
func (c *Call) ownSession() bool { return c.OwnSession && !c.Program }

func (r *Rule) missesArgs(c *asked) string {
	switch {
	case len(r.Args) == 0 || !c.Program && c.ownSession():
		return ""
	case !c.Program:
		return "it is about starting programs"
	case !slices.ContainsFunc(r.Args, func(p []string) bool { return matchArgs(p, c.Args, false) }):
		return fmt.Sprintf("the arguments %s are of none of its patterns", quote(c.Args))
	// What would make the same words mean another program.
	case c.LoginShell:
		return "a login shell is no program that a pattern could name"
	case c.OwnName:
		return "argv[0] differs from the program"
	case c.relative():
		return "the program is given by a relative path"
	case c.ClearEnv && !slices.Contains(r.Env, "*"):
		return "the environment starts empty, for which env has to list *"
	}
	for _, e := range c.Env {
		if name, value, _ := strings.Cut(e, "="); !harmless(name, value) && !listsVariable(r.Env, name, e) {
			if _, ok := harmlessEnv[name]; ok {
				return fmt.Sprintf("the value %.80q of the variable %s is more than a plain word, and env does not list it", value, name)
			}
			return fmt.Sprintf("the variable %.80q is set, which env does not list", name)
		}
	}
	if c.Umask != nil && *c.Umask != defaultUmask && !slices.Contains(r.Umask, Umask(*c.Umask)) {
		return fmt.Sprintf("the umask %03o is none that it lists", *c.Umask)
	}
	return r.missesDir(c)
}

// missesDir is about the working directory, from which relative names in the
// arguments, and what a program finds by itself, are taken.
func (r *Rule) missesDir(c *asked) string {
	if c.Dir == "" {
		return "" // the user's home
	}
	switch {
	case !path.IsAbs(c.Dir):
		return fmt.Sprintf("the working directory %.200q is relative: give an absolute path", c.Dir)
	case !slices.Contains(r.Dir, path.Clean(c.Dir)):
		return fmt.Sprintf("the working directory %.200q is none that dir lists", c.Dir)
	}
	if t := resolve(c.Dir, c.world.Dir); t.err != nil || t.leadsElsewhere() {
		return fmt.Sprintf("the working directory %.200q leads through a symbolic link", c.Dir)
	}
	return ""
}

// listsVariable reports whether env of a rule lists a variable, by its name or as
// a whole.
func listsVariable(list []string, name, entry string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		if strings.Contains(p, "=") {
			return match(p, entry)
		}
		return match(p, name)
	})
}

func (r *Rule) missesUser(c *asked) string {
	if len(r.Users) == 0 {
		return r.missesLimits(c)
	}
	if !c.Subject {
		if c.ownSession() {
			return ""
		}
		return "it is about acting as a user"
	}
	if !matchID(r.Users, c.User, c.world.UserID) {
		user := c.User
		if user == "" {
			user = "the agent's own"
		}
		return fmt.Sprintf("the user %.80q is none of its users", user)
	}
	if c.Group != "" && !matchID(r.Groups, c.Group, c.world.GroupID) {
		return fmt.Sprintf("the group %.80q is none of its groups", c.Group)
	}
	return r.missesLimits(c)
}

// missesLimits is about limits of a program that a rule names by its arguments or
// its user: low ones make a program fail where its author did not think that it
// can, high ones are more than its user has.
func (r *Rule) missesLimits(c *asked) string {
	if len(r.Args)+len(r.Users) == 0 {
		return ""
	}
	for _, limit := range c.Limits {
		if !listed(r.Limits, limit) {
			return fmt.Sprintf("the limit %.80q is set, which limits does not list", limit)
		}
	}
	return ""
}

// listed reports whether a list has a word, or "*".
func listed(list []string, word string) bool {
	return slices.Contains(list, word) || slices.Contains(list, "*")
}

// matchID reports whether a user or group is in a list; both may be names and
// numbers. The empty name is the agent's own.
func matchID(list []string, name string, number func(string) (uint32, error)) bool {
	if slices.Contains(list, "*") || name != "" && slices.Contains(list, name) {
		return true
	}
	if number == nil {
		return false
	}
	id, err := number(name)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(list, func(s string) bool {
		other, err := number(s)
		return err == nil && s != "" && other == id
	})
}

func (r *Rule) missesFiles(c *asked) string {
	if len(r.Read) == 0 && len(r.Write) == 0 {
		return ""
	}
	switch {
	case !c.Files:
		return "it is about files"
	case len(c.reads)+len(c.writes) == 0:
		return "the call names no file"
	}
	check := func(targets []target, what string, roots ...[]string) string {
		for _, t := range targets {
			switch {
			case !path.IsAbs(t.given):
				return fmt.Sprintf("%.200q is relative: give an absolute path", t.given)
			}
			for _, place := range t.places {
				if !slices.ContainsFunc(roots, func(list []string) bool { return below(list, place) }) {
					return fmt.Sprintf("%.200q is below none of the directories that it lets %s", place, what)
				}
			}
			// Last, since what is there is nobody's business who may not look there.
			if t.err != nil {
				return fmt.Sprintf("%.200q cannot be resolved: %v", t.given, t.err)
			}
		}
		return ""
	}
	if why := check(c.reads, "read", r.Read, r.Write); why != "" {
		return why
	}
	return check(c.writes, "write", r.Write)
}

func (r *Rule) missesAddress(c *asked) string {
	if len(r.dial) == 0 && len(r.listen) == 0 {
		return ""
	}
	allows := func(d place) bool { return d.allows(c.address) }
	switch {
	case c.Accept && len(r.listen) > 0,
		c.Dial && slices.ContainsFunc(r.dial, allows),
		c.Listen && slices.ContainsFunc(r.listen, allows):
		return ""
	case !c.Dial && !c.Listen:
		return "it is about connections"
	case c.address.unclear != "":
		return fmt.Sprintf("the address %.200q: %s", c.Address, c.address.unclear)
	case c.address.odd:
		return fmt.Sprintf("the address %.200q, which may be %s, has to be written as that", c.Address, c.address)
	case c.Dial:
		return fmt.Sprintf("%.200q is none of its destinations", c.address)
	}
	return fmt.Sprintf("%.200q is no address that it lets listen on", c.address)
}
