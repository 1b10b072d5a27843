package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/vsockrpc/vsockrpc/guest"
)

// scripted is a connection whose other side has said all it will say.
type scripted struct {
	io.Reader
	bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error) { return s.Reader.Read(p) }

func TestSocksRequest(t *testing.T) {
	name := "\x05\x01\x00" + "\x05\x01\x00\x03\x03web\x1f\x90"
	tests := []struct {
		name, in, addr, answered string
		code                     byte
		err                      string
	}{
		{name: "name", in: name, addr: "web:8080", answered: "\x05\x00"},
		{name: "v4", in: "\x05\x02\x02\x00" + "\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", addr: "10.0.0.1:80", answered: "\x05\x00"},
		{name: "v6", in: "\x05\x01\x00" + "\x05\x01\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x50", addr: "[::1]:80", answered: "\x05\x00"},
		{name: "SOCKS 4", in: "\x04\x01\x00\x50\x7f\x00\x00\x01", err: "version 4"},
		{name: "HTTP", in: "GET / HTTP/1.1\r\n", err: "version 71"},
		{name: "password only", in: "\x05\x01\x02", answered: "\x05\xff", err: "authenticate"},
		{name: "no methods", in: "\x05\x00", answered: "\x05\xff", err: "authenticate"},
		{name: "BIND", in: "\x05\x01\x00" + "\x05\x02\x00\x01\x0a\x00\x00\x01\x00\x50", answered: "\x05\x00", code: socksBadCommand, err: "only CONNECT"},
		{name: "type", in: "\x05\x01\x00" + "\x05\x01\x00\x02", answered: "\x05\x00", code: socksBadAddress, err: "type 2"},
		{name: "empty name", in: "\x05\x01\x00" + "\x05\x01\x00\x03\x00\x00\x50", answered: "\x05\x00", code: socksBadAddress, err: "empty name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := &scripted{Reader: strings.NewReader(tt.in)}
			addr, code, err := socksRequest(conn)
			if addr != tt.addr || code != tt.code || conn.String() != tt.answered {
				t.Errorf("%q, code %d, answered %q; want %q, %d, %q", addr, code, conn.String(), tt.addr, tt.code, tt.answered)
			}
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
	for n := range len(name) {
		if addr, _, err := socksRequest(&scripted{Reader: strings.NewReader(name[:n])}); err == nil {
			t.Errorf("%q from the first %d bytes", addr, n)
		}
	}
	// What follows the request is the connection's.
	conn := &scripted{Reader: strings.NewReader(name + "rest")}
	if _, _, err := socksRequest(conn); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(conn.Reader); string(rest) != "rest" {
		t.Errorf("left %q", rest)
	}
}

func FuzzSocksRequest(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x03web\x1f\x90"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50"))
	f.Fuzz(func(t *testing.T, in []byte) {
		addr, _, err := socksRequest(&scripted{Reader: bytes.NewReader(in)})
		if _, _, split := net.SplitHostPort(addr); err == nil && split != nil && !strings.ContainsAny(addr, "[]:") {
			t.Errorf("%q: address %q: %v", in, addr, split)
		}
	})
}

func TestSocksCode(t *testing.T) {
	for reason, want := range map[string]byte{
		"connection-refused": socksRefused, "no-route": socksNetworkUnreachable, "no-such-host": socksHostUnreachable,
		"denied": socksNotAllowed, "timed-out": socksExpired, "failed": socksFailure,
	} {
		if got := socksCode(fmt.Errorf("dial: %w", &guest.Error{Reason: reason})); got != want {
			t.Errorf("%s: %d, want %d", reason, got, want)
		}
	}
	if got := socksCode(errors.New("x")); got != socksFailure {
		t.Errorf("%d for an error without a reason", got)
	}
}

// TestPortForwardFlags sends data through each kind of forward of one command: -L,
// -R, -D with a client that is not ours, and a range.
func TestPortForwardFlags(t *testing.T) {
	agent := tempAgent(t)
	server := echoServer(t, "tcp", "127.0.0.1:0")
	socks := filepath.Join(filepath.Dir(strings.TrimPrefix(agent, "unix:")), "socks")
	h := startHostCtl(t, "port-forward", agent, "-L", ":"+port(server.Addr()), "-R", ":"+port(server.Addr()), "-D", "0", "-D", socks)
	if err := checkEcho("tcp", h.forward()); err != nil {
		t.Error(err)
	}
	var g, inGuest string
	if n, _ := fmt.Sscanf(h.line(), "Forwarding %s %s -> ", &g, &inGuest); n != 2 {
		t.Fatal("no line of the reverse forward")
	}
	if err := checkEcho("tcp", inGuest); err != nil {
		t.Error(err)
	}
	for _, at := range []struct{ network, addr string }{{"tcp", h.forward()}, {"unix", h.forward()}} {
		dialer, err := proxy.SOCKS5(at.network, at.addr, nil, &net.Dialer{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		// The name is looked up in the guest, where it needs no resolver.
		c, err := dialer.Dial("tcp", "localhost:"+port(server.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "hello")
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Errorf("through %s: %q, %v", at.addr, got, err)
		}
		c.Close()
		refusing, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		refusing.Close()
		if _, err := dialer.Dial("tcp", refusing.Addr().String()); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("to a port that nobody listens on: %v", err)
		}
	}
	// A client that says nothing holds up no end.
	c, err := net.Dial("unix", socks)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte{5})
	if code := h.end(syscall.SIGINT); code != 130 {
		t.Errorf("exit code %d", code)
	}
}
