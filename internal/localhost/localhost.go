// Package localhost gives the name localhost one meaning, with no resolver and no
// /etc/hosts: 127.0.0.1, and ::1 where that does not work (RFC 6761, section 6.3).
// A minimal guest has neither, and a resolver may be made to answer anything.
package localhost

import (
	"context"
	"net"
	"strings"
)

// Is reports whether host is localhost or a name below it, in any case, with or
// without the closing dot.
func Is(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// Addresses returns the addresses to try for host:port or a path, in order: for
// localhost those of the loopback that network can have, otherwise address alone.
func Addresses(network, address string) []string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !Is(host) {
		return []string{address}
	}
	v4, v6 := net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)
	switch network {
	case "tcp4", "udp4":
		return []string{v4}
	case "tcp6", "udp6":
		return []string{v6}
	case "tcp", "udp":
		return []string{v4, v6}
	}
	return []string{address}
}

// Dial connects with d as DialContext does, and to localhost as this package means
// it. The error is that of the first address.
func Dial(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	return first(ctx, network, address, d.DialContext)
}

// Listen listens with lc as its Listen does; localhost is the first of its
// addresses that this machine has.
func Listen(ctx context.Context, lc *net.ListenConfig, network, address string) (net.Listener, error) {
	return first(ctx, network, address, lc.Listen)
}

func first[T any](ctx context.Context, network, address string, f func(ctx context.Context, network, address string) (T, error)) (T, error) {
	var firstErr error
	for _, a := range Addresses(network, address) {
		v, err := f(ctx, network, a)
		if err == nil {
			return v, nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	var none T
	return none, firstErr
}
