package policy

import (
	"net"
	"net/netip"
	"path"
	"strings"
)

// match reports whether s is of a pattern, in which * stands for any run of
// bytes and ? for one byte. Its time is bounded by len(pattern) * len(s).
func match(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func matchAny(patterns []string, s string) bool {
	for _, p := range patterns {
		if match(p, s) {
			return true
		}
	}
	return false
}

// anyMore, as the last argument of a pattern, stands for any number of
// arguments.
const anyMore = "..."

// matchArgs reports whether args are of a pattern of one word for each.
func matchArgs(pattern, args []string) bool {
	if n := len(pattern); n > 0 && pattern[n-1] == anyMore {
		pattern = pattern[:n-1]
		if len(args) < len(pattern) {
			return false
		}
		args = args[:len(pattern)]
	}
	if len(pattern) != len(args) {
		return false
	}
	for i, p := range pattern {
		if !match(p, args[i]) {
			return false
		}
	}
	return true
}

// matchMethod reports whether a method is of a pattern: "Service/Method" or
// "package.Service/Method", with *.
func matchMethod(pattern, method string) bool {
	service, _, _ := strings.Cut(pattern, "/")
	if strings.Contains(service, ".") {
		return match(pattern, strings.TrimPrefix(method, "/"))
	}
	// Without a package it is one of ours: another program's service may have
	// the same name.
	return match("guest.v1."+pattern, strings.TrimPrefix(method, "/")) || pattern == "*"
}

// below reports whether a path is a root, or below one. Both are clean and
// absolute.
func below(roots []string, p string) bool {
	for _, root := range roots {
		if root == "/" || p == root || strings.HasPrefix(p, root+"/") {
			return true
		}
	}
	return false
}

// destination returns what patterns of destinations are about: "tcp:HOST:PORT",
// "udp:HOST:PORT", "unix:PATH" or "unixgram:PATH", an address in one form only.
func destination(network, address string) string {
	switch network {
	case "unix", "unixgram":
		if path.IsAbs(address) {
			address = path.Clean(address)
		}
		return network + ":" + address
	case "tcp4", "tcp6", "udp4", "udp6":
		network = network[:3]
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return network + ":" + address
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.Unmap().String()
	}
	return network + ":" + net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), port)
}
