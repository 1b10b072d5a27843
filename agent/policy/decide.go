package policy

import (
	"fmt"
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
	// Dirs, if not nil, are the directories of the rule that allows the call: what
	// it does with files must stay within them.
	Dirs []string
	// Denied are files and directories that the call must not reach, wherever else
	// it may go: what it does beneath other directories leaves them out.
	Denied []string
	// NoLinks is set if a rule is about the path of the call's socket: that must
	// not lead through symbolic links.
	NoLinks bool
	// NoCore is set if the program must not write a core file.
	NoCore bool
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
	// Resolve returns the path that a clean, absolute path of a file leads to
	// through symbolic links, of what exists of it. Dir is the same of the working
	// directory of a program, which may not begin at the same place.
	Resolve, Dir func(path string) (string, error)
}

// Decide decides on a call. A nil policy allows what the caller's profiles do,
// which is everything for a caller without roles.
//
// Its cost is linear in the size of the call, which has passed Check.
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
		d = p.decide(who, &asked{Call: c, world: w}, class)
	}
	// What it may do is no secret to a caller that is known, unless a rule says
	// so: every refusal explains itself too.
	if c.Method == guestv1.AccessService_Explain_FullMethodName && !d.Allowed && !d.denied {
		d.Allowed, d.Rule, d.Text, d.Remedy = true, "own rights", "every caller that is trusted may ask what it may do", ""
	}
	if p != nil && p.AuditOnly {
		d.Allowed, d.WouldRefuse = true, !d.Allowed
		d.Denied, d.NoLinks, d.NoCore = nil, false, false
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

func (p *Policy) decide(who Caller, c *asked, class access.Class) Decision {
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
	c.look(p)
	for _, r := range roles {
		for i := range r.Deny {
			if r.Deny[i].denies(c, &d) {
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
		rule, by, miss := r.allows(c, class)
		if rule != "" {
			by.bind(c, &d)
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
	for _, r := range roles {
		for i := range r.Allow {
			c.named = append(c.named, slices.Concat(r.Allow[i].Read, r.Allow[i].Write)...)
		}
	}
	remedy := fmt.Sprintf("add to the policy: [[roles.%s.allow]] with %s", roles[0].name, strings.Join(suggest(c), ", "))
	if _, profile := access.ParseProfile(roles[0].name); profile {
		remedy = "give the key a role of the policy that allows it, in authorized_hosts or with host-ctl enroll --role"
	} else if len(misses) > 0 {
		remedy += ", or change one of those rules"
	}
	return refuse("default deny", remedy, "%s", text)
}

// maxMisses bounds what an explanation lists.
const maxMisses = 4

// allows returns the rule that allows a call, by its name, or why those did not
// that are about its method. by is nil if it is the profile.
func (r role) allows(c *asked, class access.Class) (name string, by *Rule, misses []string) {
	if r.Profile != access.ProfileNone && r.Profile.Has(class) {
		return fmt.Sprintf("roles.%s.profile", r.name), nil, nil
	}
	for i := range r.Allow {
		rule := &r.Allow[i]
		if !rule.names(c.Method) {
			continue
		}
		name := fmt.Sprintf("roles.%s.allow[%d]", r.name, i)
		why := rule.misses(c)
		if why == "" {
			return name, rule, nil
		}
		if len(misses) < maxMisses {
			misses = append(misses, name+": "+why)
		}
	}
	return "", nil, misses
}
