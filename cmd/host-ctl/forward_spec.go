package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/vsockrpc/vsockrpc/internal/localhost"
)

// forwardSpec is one argument of port-forward: where to listen, and where to
// connect for what comes. Usually the first is here and the second in the
// guest; with --reverse it is the other way round.
type forwardSpec struct {
	network string // "tcp" or "udp" of the ends that are not paths
	listen  endpoint
	target  endpoint
	reverse bool // listen in the guest, connect from here
	// optional marks the second address of localhost: a machine without IPv6 has
	// the first alone.
	optional bool
}

// endpoint is a socket.
type endpoint struct {
	network string // as for net.Dial
	addr    string // host:port, or a path; when listening, the host may be empty and the port 0
}

// Targets that are no sockets.
var (
	agentItself = endpoint{"agent", "agent"}   // the agent's own port, to which it could not connect
	socksTarget = endpoint{"socks5", "SOCKS5"} // whatever each client asks for
)

// String returns the endpoint as output has it.
func (e endpoint) String() string { return e.addr }

// parseForward parses [[ADDR:]LOCAL:]REMOTE, which is several forwards if there is
// no ADDR and several are usual. LOCAL is a port, or the path of a
// Unix socket; if it is empty, or missing before a path, any free port. REMOTE
// is a port, HOST:PORT, or the path of a Unix socket; /udp behind its port makes
// it datagrams. LOCAL and REMOTE may be ranges of ports. A path has no colon in it
// and begins with / or ., or on Linux with @.
func parseForward(arg string, usual []string) ([]forwardSpec, error) {
	fields, err := splitColons(arg)
	var forwards [][]string
	if err == nil {
		forwards, err = expandRanges(fields)
	}
	var specs []forwardSpec
	for _, fields := range forwards {
		var of []forwardSpec
		if of, err = parseFields(fields, usual); err != nil {
			break
		}
		specs = append(specs, of...)
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("%q: %w; want [[ADDR:]LOCAL:]REMOTE", arg, err)}
	}
	return specs, nil
}

// parseFields makes forwards of the fields between the colons of one.
func parseFields(fields, usual []string) ([]forwardSpec, error) {
	fail := func(text string) ([]forwardSpec, error) { return nil, errors.New(text) }
	pop := func() string {
		last := fields[len(fields)-1]
		fields = fields[:len(fields)-1]
		return last
	}
	s := forwardSpec{network: "tcp"}
	remote, local := pop(), "0"
	if isPath(remote) {
		s.target = endpoint{"unix", remote}
	} else {
		port, protocol, suffixed := strings.Cut(remote, "/")
		if suffixed {
			if protocol != "tcp" && protocol != "udp" {
				return fail(fmt.Sprintf("protocol %q is neither tcp nor udp", protocol))
			}
			s.network = protocol
		}
		if !isPort(port) || port == "0" {
			return fail(fmt.Sprintf("%q is no port", port))
		}
		host := "localhost"
		if n := len(fields); n > 0 && fields[n-1] != "" && !isPath(fields[n-1]) && !isPort(fields[n-1]) {
			if host = pop(); isNumber(host) {
				return fail(fmt.Sprintf("%q is no port", host))
			}
		}
		s.target, local = endpoint{s.network, net.JoinHostPort(host, port)}, port
	}
	if len(fields) > 0 {
		if local = pop(); local == "" {
			local = "0"
		}
	}
	switch {
	case len(fields) > 1:
		return fail("too many colons")
	case isPath(local) && len(fields) == 1:
		return fail("a path has no ADDR")
	case isPath(local) && s.network == "udp":
		return fail("datagrams do not go with a path")
	case isPath(local):
		s.listen = endpoint{"unix", local}
		return []forwardSpec{s}, nil
	case !isPort(local):
		return fail(fmt.Sprintf("%q is no port", local))
	case len(fields) == 1:
		usual = fields
	}
	return s.on(usual, local)
}

// on returns the forward for each of the addresses to listen on.
func (s forwardSpec) on(addresses []string, port string) ([]forwardSpec, error) {
	var specs []forwardSpec
	for _, addr := range addresses {
		each := []string{addr}
		switch {
		case addr == "":
			return nil, errors.New("an empty ADDR")
		case addr == "*":
			each[0] = "" // as package net has it
		case localhost.Is(addr) && port == "0":
			each[0] = "127.0.0.1" // on the other one it would be another port
		case localhost.Is(addr):
			each = []string{"127.0.0.1", "::1"}
		}
		for i, a := range each {
			s.listen, s.optional = endpoint{s.network, net.JoinHostPort(a, port)}, i > 0
			specs = append(specs, s)
		}
	}
	return specs, nil
}

// parseDynamic parses the [ADDR:]PORT of a SOCKS server.
func parseDynamic(arg string, usual []string) ([]forwardSpec, error) {
	fail := usageError{fmt.Errorf("%q: want [ADDR:]PORT, or the path of a Unix socket", arg)}
	s := forwardSpec{network: "tcp", target: socksTarget}
	if isPath(arg) {
		s.listen = endpoint{"unix", arg}
		return []forwardSpec{s}, nil
	}
	fields, err := splitColons(arg)
	if err != nil || len(fields) > 2 || !isPort(fields[len(fields)-1]) {
		return nil, fail
	}
	if len(fields) == 2 {
		usual = fields[:1]
	}
	specs, err := s.on(usual, fields[len(fields)-1])
	if err != nil {
		return nil, fail
	}
	return specs, nil
}

// parseTarget parses the operand of proxy: PORT, HOST:PORT or a path, in the
// guest.
func parseTarget(arg string) (endpoint, error) {
	fail := usageError{fmt.Errorf("%q: want PORT, HOST:PORT or the path of a socket", arg)}
	if isPath(arg) {
		return endpoint{"unix", arg}, nil
	}
	fields, err := splitColons(arg)
	if err != nil || len(fields) > 2 {
		return endpoint{}, fail
	}
	host, port := "localhost", fields[len(fields)-1]
	if len(fields) == 2 {
		host = fields[0]
	}
	if host == "" || isNumber(host) || !isPort(port) || port == "0" {
		return endpoint{}, fail
	}
	return endpoint{"tcp", net.JoinHostPort(host, port)}, nil
}

// splitColons splits at the colons outside of brackets, which it removes.
func splitColons(s string) ([]string, error) {
	var fields []string
	for {
		var field string
		var more bool
		if rest, ok := strings.CutPrefix(s, "["); ok {
			if field, s, ok = strings.Cut(rest, "]"); !ok {
				return nil, errors.New("[ without ]")
			}
			if s, more = strings.CutPrefix(s, ":"); !more && s != "" {
				return nil, errors.New("text after ]")
			}
			if net.ParseIP(strings.Split(field, "%")[0]) == nil {
				return nil, errors.New("no IP address between [ and ]")
			}
		} else {
			field, s, more = strings.Cut(s, ":")
		}
		if fields = append(fields, field); !more {
			return fields, nil
		}
	}
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil && isNumber(s)
}

// isNumber reports whether s has digits alone: no host is called so.
func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func isPath(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "@")
}
