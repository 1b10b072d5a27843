package keys

import (
	"fmt"
	"slices"
	"strings"
)

// Host is a line of an authorized_hosts file: a key that a guest's agent knows.
//
//	[OPTION,...] ssh-ed25519 BASE64 [NAME]
//
// The options are role=ROLE, which names a role of the policy or a profile
// (info, ops, full) and may stand several times, and revoked: this key is
// refused, whatever other line or file allows it.
type Host struct {
	Key     Public
	Name    string // what stands after the key
	Roles   []string
	Revoked bool
}

// Bounds of an authorized_hosts or known_guests file.
const (
	MaxFile  = 1 << 20
	maxLines = 10000
	maxLine  = 4096
)

// String returns the line, without its end.
func (h Host) String() string {
	var options []string
	for _, r := range h.Roles {
		options = append(options, "role="+r)
	}
	if h.Revoked {
		options = append(options, "revoked")
	}
	s := h.Key.String()
	if len(options) > 0 {
		s = strings.Join(options, ",") + " " + s
	}
	if h.Name != "" {
		s += " " + h.Name
	}
	return s
}

// Check returns an error if the line of h would be read back as another.
func (h Host) Check() error {
	back, err := ParseHost(h.String())
	if err != nil {
		return err
	}
	if back.Key != h.Key || back.Name != h.Name || back.Revoked != h.Revoked || !slices.Equal(back.Roles, h.Roles) {
		return fmt.Errorf("name %.80q: want words with single spaces between them", h.Name)
	}
	return nil
}

// ParseHost parses one line of an authorized_hosts file.
func ParseHost(line string) (Host, error) {
	var h Host
	if err := checkText(line); err != nil {
		return h, err
	}
	words := strings.Fields(line)
	if len(words) > 0 && words[0] != keyType && !strings.HasPrefix(words[0], "AAAA") {
		for option := range strings.SplitSeq(words[0], ",") {
			role, isRole := strings.CutPrefix(option, "role=")
			switch {
			case option == "revoked":
				h.Revoked = true
			case isRole && CheckWord(role) == nil:
				h.Roles = append(h.Roles, role)
			default:
				// An option that is not understood might have been a
				// restriction.
				return Host{}, fmt.Errorf("option %.80q: want role=NAME or revoked", option)
			}
		}
		words = words[1:]
	}
	var err error
	h.Key, h.Name, err = ParsePublic(strings.Join(words, " "))
	if err == nil {
		err = CheckName(h.Name)
	}
	if err != nil {
		return Host{}, err
	}
	return h, nil
}

// maxName bounds the name of a key, in bytes.
const maxName = 128

// CheckName returns an error for a name of a key that could mislead: one that is no
// printable ASCII, that a policy could take for a fingerprint or a pattern, or that
// is too long. The empty name, of a key without one, is none of that.
func CheckName(name string) error {
	if err := checkText(name); err != nil {
		return fmt.Errorf("name %.80q: %w", name, err)
	}
	if len(name) > maxName {
		return fmt.Errorf("name %.80q...: %d bytes, more than %d", name, len(name), maxName)
	}
	if strings.ContainsAny(name, "*?\"'") || len(name) >= len(fingerprintPrefix) && strings.EqualFold(name[:len(fingerprintPrefix)], fingerprintPrefix) {
		return fmt.Errorf("name %.80q: a policy could take it for a fingerprint or a pattern", name)
	}
	return nil
}

// ParseHosts parses an authorized_hosts file. Empty lines, and those that begin
// with #, are comments. An error names the line; then no line counts.
func ParseHosts(data []byte) ([]Host, error) {
	var hosts []Host
	err := eachLine(data, func(line string) error {
		h, err := ParseHost(line)
		hosts = append(hosts, h)
		return err
	})
	if err != nil {
		return nil, err
	}
	return hosts, nil
}

// FormatHosts returns the file with the lines of hosts.
func FormatHosts(hosts []Host) []byte {
	var b strings.Builder
	for _, h := range hosts {
		b.WriteString(h.String() + "\n")
	}
	return []byte(b.String())
}

// Guest is a line of a known_guests file: the key that a host has pinned for a
// guest, by the guest's name in the host's configuration.
//
//	NAME ssh-ed25519 BASE64
type Guest struct {
	Name string
	Key  Public
}

// String returns the line, without its end.
func (g Guest) String() string { return g.Name + " " + g.Key.String() }

// ParseGuests parses a known_guests file. Empty lines, and those that begin with
// #, are comments. A name may stand several times, as while its key is being
// exchanged for a new one. An error names the line.
func ParseGuests(data []byte) ([]Guest, error) {
	var guests []Guest
	err := eachLine(data, func(line string) error {
		if err := checkText(line); err != nil {
			return err
		}
		name, rest, _ := strings.Cut(line, " ")
		if err := CheckWord(name); err != nil || name == keyType {
			return fmt.Errorf("%.80q is no name: want NAME %s BASE64", name, keyType)
		}
		key, _, err := ParsePublic(rest)
		guests = append(guests, Guest{Name: name, Key: key})
		return err
	})
	if err != nil {
		return nil, err
	}
	return guests, nil
}

// CheckWord returns an error unless s is a name of letters, digits and . _ -,
// which does not begin with . or -.
func CheckWord(s string) error {
	plain := strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
	if s == "" || len(s) > 128 || !plain || s[0] == '-' || s[0] == '.' {
		return fmt.Errorf("name %.80q: use letters, digits, and . _ - but not first", s)
	}
	return nil
}

// eachLine calls f with the lines that are no comments.
func eachLine(data []byte, f func(line string) error) error {
	if len(data) > MaxFile {
		return fmt.Errorf("more than %d bytes", MaxFile)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		if n > maxLines {
			return fmt.Errorf("more than %d lines", maxLines)
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := f(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return nil
}

// checkText refuses what could mislead somebody who reads the file or a log.
func checkText(line string) error {
	if len(line) > maxLine {
		return fmt.Errorf("a line of %d bytes, more than %d", len(line), maxLine)
	}
	for _, c := range []byte(line) {
		if c >= 0x7f || c < ' ' && c != '\t' {
			return fmt.Errorf("byte %#02x: only printable ASCII can stand here", c)
		}
	}
	return nil
}
