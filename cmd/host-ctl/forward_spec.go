package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// forwardSpec is one argument of port-forward: where to listen, and where to
// connect for what comes. Usually the first is here and the second in the
// guest; with --reverse it is the other way round.
type forwardSpec struct {
	network string // "tcp" or "udp" of the ends that are not paths
	listen  endpoint
	target  endpoint
}

// endpoint is a socket.
type endpoint struct {
	network string // as for net.Dial
	addr    string // host:port, or a path; when listening, the host may be empty and the port 0
}

// agentItself is the agent's own port, which is no socket that the agent could
// connect to.
var agentItself = endpoint{"agent", "agent"}

// String returns the endpoint as output has it.
func (e endpoint) String() string { return e.addr }

// parseForward parses [[ADDR:]LOCAL:]REMOTE, which is several forwards if there is
// no ADDR and several are usual. LOCAL is a port, or the path of a
// Unix socket; if it is empty, or missing before a path, any free port. REMOTE
// is a port, HOST:PORT, or the path of a Unix socket; /udp behind its port makes
// it datagrams. A path has no colon in it and begins with / or ., or on Linux
// with @.
func parseForward(arg string, usual []string) ([]forwardSpec, error) {
	fail := func(text string) ([]forwardSpec, error) {
		return nil, usageError{fmt.Errorf("%q: %s; want [[ADDR:]LOCAL:]REMOTE", arg, text)}
	}
	fields, err := splitColons(arg)
	if err != nil {
		return fail(err.Error())
	}
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
	var specs []forwardSpec
	for _, addr := range usual {
		if addr == "" {
			return fail("an empty ADDR")
		}
		if addr == "*" {
			addr = "" // as package net has it
		}
		s.listen = endpoint{s.network, net.JoinHostPort(addr, local)}
		specs = append(specs, s)
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
