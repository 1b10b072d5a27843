package policy

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/keys"
)

// Policy is a parsed policy. It is not changed after Parse.
type Policy struct {
	// AuditOnly logs what would be refused, and refuses nothing.
	AuditOnly bool `toml:"audit_only"`
	// ReadOnly refuses, to everybody, what changes the guest.
	ReadOnly bool `toml:"read_only"`
	// Roles are the roles by name.
	Roles map[string]*Role `toml:"roles"`

	// Text is the file that it was parsed from.
	Text string `toml:"-"`
	// names are those of the roles, sorted.
	names []string
	// paths is set if any rule is about paths of files.
	paths bool
}

// Role says who has it and what they may do: what the profile or a rule of
// Allow allows, unless a rule of Deny, or of another role of the caller's,
// denies it.
type Role struct {
	Keys     []string       `toml:"keys"`  // names in authorized_hosts, or fingerprints; "*": any
	Peers    []string       `toml:"peers"` // words such as host-root, uid:1000, cid:2; "*": any
	Profile  access.Profile `toml:"profile"`
	ReadOnly bool           `toml:"read_only"`
	MaxTime  Duration       `toml:"max_time"`  // of one call
	MaxBytes Size           `toml:"max_bytes"` // of one call, both directions
	Allow    []Rule         `toml:"allow"`
	Deny     []Rule         `toml:"deny"`
}

// Rule is about some methods and what calls of them ask for. A rule that mentions
// something is not about calls that have nothing of it: one with Args is about
// calls that start a program. What it does not mention it does not look at, but
// one that names programs, or users, fixes how those run where Env, Dir, Limits and
// Umask do not list more.
type Rule struct {
	Methods []string   `toml:"methods"` // "ProcessService/Exec", "FileService/*", "*"; none: any method
	Args    [][]string `toml:"args"`    // patterns, a word for each argument; the last may be "..."
	Env     []string   `toml:"env"`     // with args: variables that may be set, "NAME" or "NAME=VALUE", beside harmless ones
	Dir     []string   `toml:"dir"`     // with args: working directories beside the user's home
	Umask   []Umask    `toml:"umask"`   // with args: beside 022
	Limits  []string   `toml:"limits"`  // with args or users: what may be limited, such as memory, nofile, nice, core; "*": all
	Users   []string   `toml:"users"`   // names or numbers; "*": any
	Groups  []string   `toml:"groups"`  // with users: groups other than the user's own
	Read    []string   `toml:"read"`    // directories, or files
	Write   []string   `toml:"write"`   // the same, which are for reading too
	Dial    []string   `toml:"dial"`    // destinations such as "tcp:127.0.0.1:5432"
	Listen  []string   `toml:"listen"`

	dial, listen []place
}

// Umask is a file mode creation mask, in a policy as octal text such as "027".
type Umask uint32

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *Umask) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 32)
	if err != nil || n > 0o777 {
		return fmt.Errorf("%q: want a umask such as \"027\"", text)
	}
	*u = Umask(n)
	return nil
}

// Duration is a time.Duration as text, such as "10m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q: want a duration such as 90s or 10m", text)
	}
	*d = Duration(v)
	return nil
}

// Size is a number of bytes as text, with K, M, G or T for powers of 1024.
type Size uint64

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	digits, shift := string(text), 0
	if digits != "" {
		if i := strings.IndexByte("KMGT", digits[len(digits)-1]); i >= 0 {
			digits, shift = digits[:len(digits)-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n == 0 || n > 1<<63>>shift {
		return fmt.Errorf("%q: want a size such as 65536, 64K or 1G", text)
	}
	*s = Size(n << shift)
	return nil
}

// Parse parses the text of a policy. A key that is not known is an error, as
// are rules that could mean less or more than they seem to.
func Parse(data []byte) (*Policy, error) {
	p := &Policy{Text: string(data)}
	meta, err := toml.Decode(p.Text, p)
	if err != nil {
		if pe, ok := errors.AsType[toml.ParseError](err); ok {
			return nil, fmt.Errorf("line %d: %s", pe.Position.Line, pe.Message)
		}
		return nil, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("unknown key %s", unknown[0])
	}
	p.names = slices.Sorted(maps.Keys(p.Roles))
	for _, name := range p.names {
		if err := p.Roles[name].check(name); err != nil {
			return nil, fmt.Errorf("roles.%s: %w", name, err)
		}
		for _, r := range slices.Concat(p.Roles[name].Allow, p.Roles[name].Deny) {
			p.paths = p.paths || len(r.Read)+len(r.Write) > 0
		}
	}
	return p, nil
}

func (r *Role) check(name string) error {
	if err := keys.CheckWord(name); err != nil {
		return err
	}
	if _, ok := access.ParseProfile(name); ok {
		return errors.New("a profile has this name already")
	}
	if _, ok := access.ParseProfile(string(r.Profile)); !ok && r.Profile != access.ProfileNone {
		return fmt.Errorf("profile %q: want info, ops or full", r.Profile)
	}
	for _, k := range r.Keys {
		if strings.HasPrefix(k, "SHA256:") {
			if err := keys.CheckFingerprint(k); err != nil {
				return err
			}
		} else if k == "" {
			return errors.New("keys: an empty name would be that of every key without one")
		}
	}
	if slices.Contains(r.Peers, "") {
		return errors.New("peers: an empty word")
	}
	for i := range r.Allow {
		if err := r.Allow[i].check(); err != nil {
			return fmt.Errorf("allow[%d]: %w", i, err)
		}
	}
	for i := range r.Deny {
		if err := r.Deny[i].check(); err != nil {
			return fmt.Errorf("deny[%d]: %w", i, err)
		}
		if d := r.Deny[i]; len(d.Env)+len(d.Groups)+len(d.Dir)+len(d.Limits)+len(d.Umask) > 0 {
			return fmt.Errorf("deny[%d]: env, dir, umask, limits and groups are for allow", i)
		}
	}
	return nil
}

// lists returns what a rule may mention, by the names in the file, but Args and
// Umask.
func (r *Rule) lists() map[string][]string {
	return map[string][]string{"methods": r.Methods, "env": r.Env, "dir": r.Dir, "limits": r.Limits, "users": r.Users, "groups": r.Groups, "read": r.Read, "write": r.Write, "dial": r.Dial, "listen": r.Listen}
}

func (r *Rule) check() error {
	// What is not mentioned is not looked at, so nothing must be left out by
	// mistake: a file may be cut off, or a list not filled in yet.
	mentioned := r.Args != nil
	if r.Umask != nil && len(r.Umask) == 0 {
		return errors.New("umask = []: list something, or leave it out, which is to say 022")
	}
	for name, list := range r.lists() {
		if list != nil && len(list) == 0 {
			return fmt.Errorf("%s = []: list something, or leave it out, which is to say anything", name)
		}
		mentioned = mentioned || list != nil
	}
	switch {
	case !mentioned:
		return errors.New("a rule that mentions nothing would be about everything: say so by methods = [\"*\"]")
	case r.Args != nil && len(r.Args) == 0:
		return errors.New("args = []: list something, or leave it out, which is to say anything")
	}
	for _, m := range r.Methods {
		service, method, ok := strings.Cut(m, "/")
		if m != "*" && (!ok || service == "" || method == "" || strings.Contains(method, "/")) {
			return fmt.Errorf("method %q: want Service/Method, such as ProcessService/Exec or FileService/*", m)
		}
		if !strings.Contains(service, ".") && !slices.ContainsFunc(access.Methods(), func(full string) bool { return matchMethod(m, full) }) {
			return fmt.Errorf("method %q: the agent has none like it; of another program's service, give the package too", m)
		}
	}
	for _, a := range r.Args {
		if i := slices.Index(a, anyMore); len(a) == 0 || i >= 0 && i != len(a)-1 {
			return fmt.Errorf("args %q: want one word for each argument, and \"...\" last if at all", a)
		}
	}
	for _, root := range slices.Concat(r.Read, r.Write) {
		if !path.IsAbs(root) || path.Clean(root) != root {
			return fmt.Errorf("directory %q: want an absolute path without . and .. and a / at its end", root)
		}
	}
	for _, dir := range r.Dir {
		if !path.IsAbs(dir) || path.Clean(dir) != dir {
			return fmt.Errorf("working directory %q: want an absolute path without . and .. and a / at its end", dir)
		}
	}
	for _, list := range []struct {
		words  []string
		places *[]place
	}{{r.Dial, &r.dial}, {r.Listen, &r.listen}} {
		for _, word := range list.words {
			d, err := parsePlace(word)
			if err != nil {
				return err
			}
			*list.places = append(*list.places, d)
		}
	}
	switch {
	case len(r.Env)+len(r.Dir)+len(r.Umask) > 0 && len(r.Args) == 0:
		return errors.New("env, dir and umask go with args")
	case len(r.Limits) > 0 && len(r.Args)+len(r.Users) == 0:
		return errors.New("limits goes with args or users")
	case len(r.Groups) > 0 && len(r.Users) == 0:
		return errors.New("groups goes with users")
	}
	return nil
}
