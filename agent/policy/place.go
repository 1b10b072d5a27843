package policy

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// place is what dial or listen of a rule names: sockets of a network.
type place struct {
	network string // tcp, udp, unix or unixgram; "*": tcp and udp, or all with any
	any     bool   // whatever the address is

	path string // of unix and unixgram, with wildcards; with @ an abstract name

	anyHost bool
	prefix  netip.Prefix // addresses; the zero one: none
	octets  []string     // an IPv4 address with * for some of its numbers
	zone    string       // of prefix; "*": any
	name    string       // of a host, with wildcards within its labels
	port    int          // -1: any
}

// parsePlace parses what docs/security.md describes: NETWORK:HOST:PORT or
// unix:PATH.
func parsePlace(s string) (place, error) {
	network, address, ok := strings.Cut(s, ":")
	d := place{network: network, any: address == "*", port: -1}
	switch {
	case !ok || address == "" || !slices.Contains([]string{"tcp", "udp", "unix", "unixgram", "*"}, network):
		return d, fmt.Errorf("destination %q: want tcp:HOST:PORT, udp:HOST:PORT, unix:PATH or unixgram:PATH", s)
	case d.any:
		return d, nil
	case network == "unix" || network == "unixgram":
		if address[0] != '@' && (!path.IsAbs(address) || path.Clean(address) != address) {
			return d, fmt.Errorf("destination %q: want an absolute path without . and .. and a / at its end", s)
		}
		d.path = address
		return d, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return d, fmt.Errorf("destination %q: %w", s, err)
	}
	if port != "*" {
		if d.port, err = parsePort(port); err != nil {
			return d, fmt.Errorf("destination %q: the port is a number, or *", s)
		}
	}
	return d, d.parseHost(host, s)
}

func (d *place) parseHost(host, s string) error {
	if host == "*" {
		d.anyHost = true
		return nil
	}
	host, d.zone, _ = strings.Cut(host, "%")
	if p, err := netip.ParsePrefix(host); err == nil {
		d.prefix = p.Masked()
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		d.prefix = netip.PrefixFrom(ip, ip.BitLen())
		return nil
	}
	if parts := strings.Split(host, "."); strings.Trim(host, "0123456789.*?") == "" && strings.ContainsAny(host, "*?") {
		whole := func(p string) bool { _, err := strconv.ParseUint(p, 10, 8); return p == "*" || err == nil }
		if len(parts) != 4 || slices.ContainsFunc(parts, func(p string) bool { return !whole(p) }) {
			return fmt.Errorf("destination %q: an address with wildcards has four numbers, of which some are a whole *", s)
		}
		d.octets = parts
		return nil
	}
	if _, numeric := numericHost(host); numeric || d.zone != "" || strings.ContainsAny(host, ":/ ") {
		return fmt.Errorf("destination %q: want a name, or an address such as 10.0.0.1, 10.0.0.*, 10.0.0.0/24 or [fd00::1]", s)
	}
	d.name = fold(host)
	return nil
}

// fold returns a host's name in one form.
func fold(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func parsePort(s string) (int, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err
}

// address is where a call connects to, or listens.
type address struct {
	network string
	path    string // of unix and unixgram, clean

	host    string     // a name, folded; empty for an address, or none
	ip      netip.Addr // with its zone; not valid for a name
	odd     bool       // an address in a spelling that others may read otherwise
	port    int        // -1: no number
	unclear string     // why it is none of the above, and no rule allows it
}

// parseAddress reads the address of a call as the agent will use it.
func parseAddress(network, text string) address {
	a := address{network: network, port: -1}
	switch network {
	case "unix", "unixgram":
		switch a.path = text; {
		case strings.HasPrefix(text, "@"):
		case strings.Contains(text, "\x00"):
			a.unclear = "the kernel takes the path to end at the byte 0 in it"
		case path.IsAbs(text):
			a.path = path.Clean(text)
		default:
			a.unclear = "the path is relative: give an absolute one"
		}
		return a
	case "tcp4", "tcp6", "udp4", "udp6":
		a.network = network[:3]
	case "tcp", "udp":
	default:
		a.unclear = "the network is unknown"
		return a
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		a.unclear = "it is not host:port"
		return a
	}
	if a.port, err = parsePort(port); err != nil {
		a.port = -1
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		a.ip = ip.Unmap()
	} else if ip, numeric := numericHost(host); numeric {
		a.ip, a.odd = ip, true
	} else {
		a.host = fold(host)
	}
	return a
}

// numericHost reads what inet_aton(3) takes for an IPv4 address: one to four
// numbers, decimal, octal or hexadecimal, the last of which fills the rest. A
// resolver may take it for an address, or for a name. The address is not valid if
// only its form is that of one.
func numericHost(s string) (ip netip.Addr, numeric bool) {
	parts := strings.Split(strings.TrimSuffix(s, "."), ".")
	for _, part := range parts {
		digits, hex := strings.CutPrefix(strings.ToLower(part), "0x")
		if part == "" || !hex && strings.Trim(digits, "0123456789") != "" || hex && strings.Trim(digits, "0123456789abcdef") != "" {
			return ip, false
		}
	}
	var value uint64
	for i, part := range parts {
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (4 - i)
		}
		n, err := strconv.ParseUint(part, 0, 32)
		if err != nil || i > 3 || n>>bits != 0 {
			return ip, true
		}
		value = value<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

// String returns the address as a rule names it, after it was read.
func (a address) String() string {
	if a.network == "unix" || a.network == "unixgram" {
		return a.network + ":" + a.path
	}
	host, port := a.host, "?"
	if a.ip.IsValid() {
		host = a.ip.String()
	}
	if a.port >= 0 {
		port = strconv.Itoa(a.port)
	}
	return a.network + ":" + net.JoinHostPort(host, port)
}

// allows reports whether an address is surely one of the place.
func (d *place) allows(a address) bool {
	switch {
	case a.unclear != "" || a.odd || !d.onNetwork(a.network):
		return false
	case d.any:
		return true
	case d.path != "":
		return matchPath(d.path, a.path)
	case d.port >= 0 && d.port != a.port:
		return false
	case d.anyHost:
		return true
	case d.name != "":
		return a.host != "" && glob(d.name, a.host, ".")
	}
	return d.contains(a.ip) && (d.zone == "*" || d.zone == a.ip.Zone())
}

// matchPath reports whether the path of a socket is of a pattern.
func matchPath(pattern, p string) bool {
	return strings.HasPrefix(pattern, "@") == strings.HasPrefix(p, "@") && glob(pattern, p, "/")
}

// denies reports whether an address may be one of the place. In doubt it is.
func (d *place) denies(a address) bool {
	switch {
	case a.unclear != "":
		return true
	case !d.onNetwork(a.network):
		return false
	case d.any:
		return true
	case d.path != "":
		return match(d.path, a.path)
	case d.port >= 0 && a.port >= 0 && d.port != a.port:
		return false
	case d.anyHost:
		return true
	case d.name != "":
		return a.host != "" && match(d.name, a.host)
	case a.host == "" && !a.ip.IsValid(), a.ip.IsUnspecified():
		return true // no host, or 0.0.0.0: the machine itself, on any of its addresses
	}
	if a.host == "localhost" || strings.HasSuffix(a.host, ".localhost") {
		return d.contains(netip.AddrFrom4([4]byte{127, 0, 0, 1})) || d.contains(netip.IPv6Loopback())
	}
	return d.contains(a.ip)
}

func (d *place) onNetwork(network string) bool {
	return d.network == network || d.network == "*" && (d.any || network == "tcp" || network == "udp")
}

// contains reports whether an address is in the place's, its zone aside.
func (d *place) contains(ip netip.Addr) bool {
	if !ip.IsValid() {
		return false
	}
	if d.octets == nil {
		return d.prefix.Contains(ip.WithZone(""))
	}
	if !ip.Is4() {
		return false
	}
	for i, b := range ip.As4() {
		if d.octets[i] != "*" && d.octets[i] != strconv.Itoa(int(b)) {
			return false
		}
	}
	return true
}
