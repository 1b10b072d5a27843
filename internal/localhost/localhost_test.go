package localhost

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"testing"
)

func TestAddresses(t *testing.T) {
	for _, test := range []struct {
		network, address string
		want             []string
	}{
		{"tcp", "localhost:80", []string{"127.0.0.1:80", "[::1]:80"}},
		{"udp", "LocalHost.:53", []string{"127.0.0.1:53", "[::1]:53"}},
		{"tcp", "db.localhost:5432", []string{"127.0.0.1:5432", "[::1]:5432"}},
		{"tcp4", "localhost:80", []string{"127.0.0.1:80"}},
		{"tcp6", "localhost:80", []string{"[::1]:80"}},
		{"tcp", "localhost.example:80", []string{"localhost.example:80"}},
		{"tcp", "notlocalhost:80", []string{"notlocalhost:80"}},
		{"tcp", "[::1]:80", []string{"[::1]:80"}},
		{"unix", "localhost:80", []string{"localhost:80"}},
		{"unix", "/run/app.sock", []string{"/run/app.sock"}},
		{"tcp", "", []string{""}},
	} {
		if got := Addresses(test.network, test.address); !slices.Equal(got, test.want) {
			t.Errorf("Addresses(%q, %q) = %q, want %q", test.network, test.address, got, test.want)
		}
	}
}

// TestDialFallsBack shows that a server on ::1 alone is reached as localhost, and
// that no resolver is asked.
func TestDialFallsBack(t *testing.T) {
	d := &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("a resolver was asked")
		return nil, errors.New("no resolver")
	}}}
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			t.Logf("this machine has no %s", addr)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		c, err := Dial(t.Context(), d, "tcp", "localhost:"+port)
		if err != nil {
			t.Errorf("with a server on %s: %v", l.Addr(), err)
			continue
		}
		if c.RemoteAddr().String() != l.Addr().String() {
			t.Errorf("connected to %s, want %s", c.RemoteAddr(), l.Addr())
		}
		c.Close()
		l.Close()
		if _, err := Dial(t.Context(), d, "tcp", "localhost:"+port); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("with no server: %v, want ECONNREFUSED", err)
		}
	}
}

func TestListen(t *testing.T) {
	l, err := Listen(t.Context(), new(net.ListenConfig), "tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ip := l.Addr().(*net.TCPAddr).IP; !ip.IsLoopback() {
		t.Errorf("listens on %s", ip)
	}
}
