package main

import (
	"errors"
	"runtime"
	"strings"
)

// operands are what a cp is from and to.
type operands struct {
	from, to       string // guests; empty: this machine
	sources        []string
	dst            string
	fromTar, toTar bool // an archive on stdin, on stdout
}

// parseOperands makes sense of SRC... DST.
func parseOperands(args []string) (*operands, error) {
	o := &operands{}
	last := args[len(args)-1]
	o.to, o.dst, _ = splitOperand(last)
	o.toTar = last == "-"
	for i, arg := range args[:len(args)-1] {
		target, path, remote := splitOperand(arg)
		switch {
		case path == "":
			return nil, usageError{errors.New("an empty name")}
		case arg == "-" && len(args) > 2:
			return nil, usageError{errors.New("an archive on stdin is the only source")}
		case arg == "-":
			o.fromTar = true
		case i > 0 && (remote != (o.from != "")):
			return nil, usageError{errors.New("some of the sources are local and some are not: copy one after the other")}
		case i > 0 && target != o.from:
			return nil, usageError{errors.New("the sources are on several guests: copy from one after the other")}
		}
		o.from = target
		o.sources = append(o.sources, path)
	}
	switch {
	case o.dst == "":
		return nil, usageError{errors.New("an empty name")}
	case o.from == "" && o.to == "":
		return nil, usageError{errors.New("neither side is a guest: want GUEST:PATH")}
	}
	return o, nil
}

// splitOperand splits GUEST:PATH. What is local comes back as path.
func splitOperand(s string) (target, path string, remote bool) {
	if strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "~") {
		return "", s, false
	}
	if runtime.GOOS == "windows" && len(s) > 1 && s[1] == ':' {
		return "", s, false // a drive
	}
	last := strings.HasPrefix(s, "unix:") || strings.HasPrefix(s, "vsock-mux:")
	at := -1
	for i := 0; i+1 < len(s); i++ {
		if s[i] == ':' && strings.IndexByte("/.~", s[i+1]) >= 0 && (last || at < 0) {
			at = i
		}
	}
	if at <= 0 || last && at == strings.IndexByte(s, ':') {
		return splitHome(s)
	}
	return s[:at], guestPath(s[at+1:]), true
}

// splitHome splits GUEST:PATH with a path below the user's home: an empty one, or, of a
// guest that is no address and has no slash, any.
func splitHome(s string) (target, path string, remote bool) {
	target, path, remote = strings.Cut(s, ":")
	for _, scheme := range []string{"unix", "vsock-mux", "vsock", "serial"} {
		if target == scheme {
			target, remote = strings.CutSuffix(s, ":")
			path = ""
		}
	}
	if !remote || target == "" || path != "" && strings.Contains(target, "/") {
		return "", s, false
	}
	if path == "" {
		path = "."
	}
	return target, path, true
}

// guestPath returns a path of the command line as the guest takes it: one that
// begins with ~ or does not begin with / is below the user's home.
func guestPath(p string) string {
	if p == "~" {
		return "."
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		if rest = strings.TrimLeft(rest, "/"); rest == "" {
			return "."
		}
		return rest
	}
	return p
}
