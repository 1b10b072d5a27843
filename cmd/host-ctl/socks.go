package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

// The server side of SOCKS 5 (RFC 1928), as far as a program that connects needs
// it: no authentication, CONNECT alone. Names are resolved in the guest.

const (
	socksVersion = 5

	socksNoAuth       = 0x00
	socksNoAcceptable = 0xff

	socksConnect = 1

	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4

	socksSucceeded          = 0
	socksFailure            = 1
	socksNotAllowed         = 2
	socksNetworkUnreachable = 3
	socksHostUnreachable    = 4
	socksRefused            = 5
	socksExpired            = 6
	socksBadCommand         = 7
	socksBadAddress         = 8
)

// socksHandshake bounds the time until a client has said where to connect.
const socksHandshake = 10 * time.Second

// dialSocks asks the client of conn where to connect, does so in the guest, and
// tells the client.
func (f *forwarder) dialSocks(ctx context.Context, conn net.Conn) (net.Conn, error) {
	conn.SetDeadline(time.Now().Add(socksHandshake))
	addr, code, err := socksRequest(conn)
	conn.SetDeadline(time.Time{})
	if err != nil {
		if code != socksSucceeded {
			socksReply(conn, code)
		}
		return nil, fmt.Errorf("SOCKS: %w", err)
	}
	other, err := f.dialGuest(ctx, endpoint{"tcp", addr})
	if err != nil {
		socksReply(conn, socksCode(err))
		return nil, err
	}
	if err := socksReply(conn, socksSucceeded); err != nil {
		breakOff(other)
		return nil, err
	}
	return other, nil
}

// socksRequest reads a client's greeting and its request, byte for byte: what
// follows is the connection's. With an error it returns the code to answer with,
// or 0 if no answer would be understood.
func socksRequest(conn io.ReadWriter) (addr string, code byte, err error) {
	var b [256]byte
	if _, err := io.ReadFull(conn, b[:2]); err != nil {
		return "", 0, err
	}
	if b[0] != socksVersion {
		return "", 0, fmt.Errorf("version %d: only SOCKS 5 is spoken here", b[0])
	}
	methods := b[:b[1]]
	if _, err := io.ReadFull(conn, methods); err != nil {
		return "", 0, err
	}
	method := byte(socksNoAcceptable)
	for _, m := range methods {
		if m == socksNoAuth {
			method = socksNoAuth
		}
	}
	if _, err := conn.Write([]byte{socksVersion, method}); err != nil {
		return "", 0, err
	}
	if method != socksNoAuth {
		return "", 0, errors.New("the client wants to authenticate; leave name and password out")
	}
	if _, err := io.ReadFull(conn, b[:4]); err != nil {
		return "", 0, err
	}
	if b[0] != socksVersion {
		return "", 0, fmt.Errorf("version %d in the request", b[0])
	}
	command, kind := b[1], b[3]
	host, err := socksHost(conn, kind)
	if err != nil {
		return "", socksBadAddress, err
	}
	if _, err := io.ReadFull(conn, b[:2]); err != nil {
		return "", 0, err
	}
	if command != socksConnect {
		return "", socksBadCommand, fmt.Errorf("command %d: only CONNECT is done", command)
	}
	port := strconv.Itoa(int(b[0])<<8 | int(b[1]))
	return net.JoinHostPort(host, port), socksSucceeded, nil
}

// socksHost reads the host of a request.
func socksHost(r io.Reader, kind byte) (string, error) {
	var b [256]byte
	n := 0
	switch kind {
	case socksIPv4:
		n = net.IPv4len
	case socksIPv6:
		n = net.IPv6len
	case socksName:
		if _, err := io.ReadFull(r, b[:1]); err != nil {
			return "", err
		}
		if n = int(b[0]); n == 0 {
			return "", errors.New("an empty name")
		}
	default:
		return "", fmt.Errorf("address of type %d", kind)
	}
	if _, err := io.ReadFull(r, b[:n]); err != nil {
		return "", err
	}
	if kind == socksName {
		return string(b[:n]), nil
	}
	return net.IP(b[:n]).String(), nil
}

// socksReply answers a request. The address that the guest connects from is not
// told: no client needs it.
func socksReply(w io.Writer, code byte) error {
	_, err := w.Write([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
	return err
}

// socksCode returns what SOCKS calls an error of connecting in the guest.
func socksCode(err error) byte {
	e, ok := errors.AsType[*guest.Error](err)
	if !ok {
		return socksFailure
	}
	switch e.Reason {
	case "connection-refused":
		return socksRefused
	case "no-route":
		return socksNetworkUnreachable
	case "no-such-host":
		return socksHostUnreachable
	case "not-permitted", "denied":
		return socksNotAllowed
	case "timed-out":
		return socksExpired
	case "bad-address":
		return socksBadAddress
	}
	return socksFailure
}
