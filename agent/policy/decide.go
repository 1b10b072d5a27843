package policy

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/vsockrpc/vsockrpc/agent/access"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Caller is who calls, as roles name callers.
type Caller struct {
	Fingerprint string   // of the key that was shown and is known; empty if none
	Name        string   // of the key
	Roles       []string // that the key's line gives it: roles, or profiles
	Peers       []string // words for the peer, such as host-root and uid:0
}

// Decision is what a policy makes of a call.
type Decision struct {
	Allowed bool
	// WouldRefuse is set if the call is allowed only because the policy is
	// audit-only.
	WouldRefuse bool
	Rule        string   // which rule decides, such as "roles.ops.deny[0]"
	Text        string   // why, for people
	Remedy      string   // what would be needed; empty if allowed
	Roles       []string // that the caller has
	// Dirs, if not nil, are the directories of the rule that allows the call, for
	// what it does with files: it must reach nothing that is beneath none of them.
	Dirs []string
	// Budgets of the call; 0: none.
	MaxTime  time.Duration
	MaxBytes uint64

	denied bool // by a rule, not for want of one
}

// World is what the decision needs to know of the guest. A nil function knows
// nothing.
type World struct {
	// UserID returns the number of a user, given by name or number.
	UserID func(user string) (uint32, error)
	// GroupID is the same of groups.
	GroupID func(group string) (uint32, error)
	// Resolve returns the path that a clean, absolute path leads to through
	// symbolic links, of what exists of it.
	Resolve func(path string) (string, error)
}

// Decide decides on a call. A nil policy allows what the caller's profiles do,
// which is everything for a caller without roles.
func (p *Policy) Decide(who Caller, c Call, w World) Decision {
	class := access.ClassOf(c.Method)
	if class.Anybody() {
		return Decision{Allowed: true, Rule: "open", Text: "this method answers everybody"}
	}
	var d Decision
	switch {
	case p == nil:
		d = decideByProfile(who, c, class)
	default:
		d = p.decide(who, c, class, w)
	}
	// What it may do is no secret to a caller that is known, unless a rule says
	// so: every refusal explains itself too.
	if c.Method == guestv1.AccessService_Explain_FullMethodName && !d.Allowed && !d.denied {
		d.Allowed, d.Rule, d.Text, d.Remedy = true, "own rights", "every caller that is trusted may ask what it may do", ""
	}
	if p != nil && p.AuditOnly && !d.Allowed {
		d.Allowed, d.WouldRefuse = true, true
	}
	return d
}

func decideByProfile(who Caller, c Call, class access.Class) Decision {
	if len(who.Roles) == 0 {
		return Decision{Allowed: true, Rule: "profile full", Text: "there is no policy: a trusted caller may do everything", Roles: []string{string(access.ProfileFull)}}
	}
	for _, r := range who.Roles {
		if profile, ok := access.ParseProfile(r); ok && profile.Has(class) {
			return Decision{Allowed: true, Rule: "profile " + r, Text: fmt.Sprintf("profile %s has methods of class %s", r, class), Roles: who.Roles}
		}
	}
	return Decision{Rule: "profile " + strings.Join(who.Roles, "+"), Roles: who.Roles,
		Text:   fmt.Sprintf("%s is of class %s, which the key's profile (%s) has not", short(c.Method), class, strings.Join(who.Roles, ", ")),
		Remedy: "give the key a line with role=" + string(needed(class)) + " in authorized_hosts, or enroll it again with host-ctl enroll --role " + string(needed(class)),
	}
}

// needed returns the smallest profile that has a class.
func needed(class access.Class) access.Profile {
	for _, p := range []access.Profile{access.ProfileInfo, access.ProfileOps} {
		if p.Has(class) {
			return p
		}
	}
	return access.ProfileFull
}

// role is a role of a caller's, by its name in the file.
type role struct {
	name string
	*Role
}

// rolesOf returns the roles of a caller. A profile that a key's line names is a
// role too.
func (p *Policy) rolesOf(who Caller) []role {
	var roles []role
	for _, name := range p.names {
		r := p.Roles[name]
		if slices.Contains(who.Roles, name) || who.Fingerprint != "" && (slices.Contains(r.Keys, "*") || slices.Contains(r.Keys, who.Fingerprint) || who.Name != "" && slices.Contains(r.Keys, who.Name)) ||
			slices.ContainsFunc(who.Peers, func(word string) bool { return slices.Contains(r.Peers, word) || slices.Contains(r.Peers, "*") }) {
			roles = append(roles, role{name, r})
		}
	}
	for _, name := range who.Roles {
		if profile, ok := access.ParseProfile(name); ok {
			roles = append(roles, role{name, &Role{Profile: profile}})
		}
	}
	return roles
}

func (p *Policy) decide(who Caller, c Call, class access.Class, w World) Decision {
	roles := p.rolesOf(who)
	var d Decision
	for _, r := range roles {
		d.Roles = append(d.Roles, r.name)
	}
	what := short(c.Method)
	refuse := func(rule, remedy, format string, args ...any) Decision {
		d.Rule, d.Text, d.Remedy = rule, fmt.Sprintf(format, args...), remedy
		return d
	}
	if len(roles) == 0 {
		return refuse("no role", joinRole(who), "the policy gives this caller (%s) no role", describe(who))
	}
	changes := class.Changes() && !c.Reading
	if p.ReadOnly && changes {
		return refuse("read_only", "take read_only = true out of the policy", "%s may change the guest, and the policy is read-only", what)
	}
	for _, r := range roles {
		for i := range r.Deny {
			if ok, _ := r.Deny[i].matches(c, w, true); ok {
				rule := fmt.Sprintf("roles.%s.deny[%d]", r.name, i)
				d.denied = true
				return refuse(rule, "change "+rule+" of the policy", "%s is denied by %s", what, rule)
			}
		}
	}
	var misses []string
	for _, r := range roles {
		if r.ReadOnly && changes {
			misses = append(misses, fmt.Sprintf("roles.%s is read-only", r.name))
			continue
		}
		rule, dirs, miss := r.allows(c, class, w)
		if rule != "" {
			d.Dirs = dirs
			d.Allowed, d.Rule, d.Text = true, rule, what+" is allowed by "+rule
			d.MaxTime, d.MaxBytes = time.Duration(r.MaxTime), uint64(r.MaxBytes)
			return d
		}
		misses = append(misses, miss...)
	}
	text := fmt.Sprintf("no rule of the caller's roles (%s) allows %s", strings.Join(d.Roles, ", "), what)
	if len(misses) > 0 {
		text += ": " + strings.Join(misses[:min(len(misses), maxMisses)], "; ")
	}
	remedy := fmt.Sprintf("add to the policy: [[roles.%s.allow]] with %s", roles[0].name, strings.Join(suggest(c, w), ", "))
	if _, profile := access.ParseProfile(roles[0].name); profile {
		remedy = "give the key a role of the policy that allows it, in authorized_hosts or with host-ctl enroll --role"
	} else if len(misses) > 0 {
		remedy += ", or change one of those rules"
	}
	return refuse("default deny", remedy, "%s", text)
}

// maxMisses bounds what an explanation lists.
const maxMisses = 4

// allows returns the rule that allows a call, or why those did not that are
// about its method.
// With a rule it returns the directories that the call may reach, nil if there is no
// such bound.
func (r role) allows(c Call, class access.Class, w World) (rule string, dirs, misses []string) {
	if r.Profile != access.ProfileNone && r.Profile.Has(class) {
		return fmt.Sprintf("roles.%s.profile", r.name), nil, nil
	}
	for i := range r.Allow {
		ok, why := r.Allow[i].matches(c, w, false)
		name := fmt.Sprintf("roles.%s.allow[%d]", r.name, i)
		if ok {
			return name, r.Allow[i].dirs(c), nil
		}
		if why != "" {
			misses = append(misses, name+": "+why)
		}
	}
	return "", nil, misses
}

// dirs returns the directories that a call which r allows may reach, nil if r is not
// about files.
func (r *Rule) dirs(c Call) []string {
	switch {
	case len(r.Read) == 0 && len(r.Write) == 0:
		return nil
	case len(c.Writes) > 0:
		return r.Write
	}
	return slices.Concat(r.Read, r.Write)
}

// matches reports whether a rule is about a call. If it is about the method but
// not the call, why says so. A rule that denies matches in doubt, one that allows
// does not.
func (r *Rule) matches(c Call, w World, deny bool) (ok bool, why string) {
	if len(r.Methods) > 0 && !slices.ContainsFunc(r.Methods, func(m string) bool { return matchMethod(m, c.Method) }) {
		return false, ""
	}
	for _, check := range []func(Call, World, bool) string{r.args, r.users, r.files, r.addresses} {
		if why := check(c, w, deny); why != "" {
			return false, why
		}
	}
	return true, ""
}

// ownSession reports whether a call is about a session that the caller has
// started, under whatever rule allowed that.
func ownSession(c Call) bool { return c.OwnSession && !c.Program }

// harmlessEnv are the variables that no program takes orders from.
var harmlessEnv = []string{"TERM", "COLORTERM", "LANG", "LANGUAGE", "LC_*", "TZ", "COLUMNS", "LINES", "NO_COLOR"}

func (r *Rule) args(c Call, _ World, deny bool) string {
	if len(r.Args) == 0 {
		return ""
	}
	if !c.Program {
		if ownSession(c) && !deny {
			return ""
		}
		return "it is about starting programs"
	}
	if !slices.ContainsFunc(r.Args, func(p []string) bool { return matchArgs(p, c.Args) }) {
		return "the arguments " + quote(c.Args) + " are of none of its patterns"
	}
	if deny {
		return ""
	}
	// What would make the same words mean another program.
	switch {
	case c.LoginShell:
		return "a login shell is no program that a pattern could name"
	case c.OwnName:
		return "argv[0] differs from the program"
	case c.Relative:
		return "the program is given by a relative path"
	}
	for _, name := range c.Env {
		if !matchAny(harmlessEnv, name) && !matchAny(r.Env, name) {
			return fmt.Sprintf("the variable %.80q is set, which env does not list", name)
		}
	}
	return ""
}

func (r *Rule) users(c Call, w World, deny bool) string {
	if len(r.Users) == 0 {
		return ""
	}
	if !c.Subject {
		if ownSession(c) && !deny {
			return ""
		}
		return "it is about acting as a user"
	}
	user := c.User
	if !matchID(r.Users, user, w.UserID) {
		if user == "" {
			user = "the agent's own"
		}
		return fmt.Sprintf("the user %.80q is none of its users", user)
	}
	if !deny && c.Group != "" && !matchID(r.Groups, c.Group, w.GroupID) {
		return fmt.Sprintf("the group %.80q is none of its groups", c.Group)
	}
	return ""
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

func (r *Rule) files(c Call, w World, deny bool) string {
	if len(r.Read) == 0 && len(r.Write) == 0 {
		return ""
	}
	if !c.Files {
		return "it is about files"
	}
	check := func(paths, roots []string, what string) string {
		for _, p := range paths {
			if !path.IsAbs(p) {
				if deny {
					return "" // it could be one of them
				}
				return fmt.Sprintf("%.200q is relative: give an absolute path", p)
			}
			clean := path.Clean(p)
			places := []string{clean}
			if w.Resolve != nil {
				real, err := w.Resolve(clean)
				if err != nil && !deny {
					return fmt.Sprintf("%.200q cannot be resolved: %v", p, err)
				}
				if err == nil {
					places = append(places, real)
				}
			}
			for _, place := range places {
				if in := below(roots, place); in && deny {
					return ""
				} else if !in && !deny {
					return fmt.Sprintf("%.200q is below none of the directories that it lets %s", place, what)
				}
			}
		}
		if deny {
			return "no path of it is below its directories"
		}
		return ""
	}
	readable := slices.Concat(r.Read, r.Write)
	if deny {
		if len(c.Reads) > 0 && len(r.Read) > 0 && check(c.Reads, r.Read, "read") == "" ||
			len(c.Writes) > 0 && check(c.Writes, readable, "write") == "" {
			return ""
		}
		return "no path of it is below its directories"
	}
	if len(c.Reads)+len(c.Writes) == 0 {
		return "the call names no file"
	}
	if why := check(c.Reads, readable, "read"); why != "" {
		return why
	}
	return check(c.Writes, r.Write, "write")
}

func (r *Rule) addresses(c Call, _ World, _ bool) string {
	if len(r.Dial) == 0 && len(r.Listen) == 0 {
		return ""
	}
	where := destination(c.Network, c.Address)
	switch {
	case c.Dial && matchAny(r.Dial, where):
		return ""
	case c.Listen && len(r.Listen) > 0 && (c.Method == guestv1.ForwardService_Accept_FullMethodName || matchAny(r.Listen, where)):
		return ""
	case c.Dial:
		return fmt.Sprintf("%.200q is none of its destinations", where)
	case c.Listen:
		return fmt.Sprintf("%.200q is no address that it lets listen on", where)
	}
	return "it is about connections"
}
