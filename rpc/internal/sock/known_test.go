package sock

import (
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
)

// rawUnix is a socket that says so.
type rawUnix struct{ *net.UnixConn }

func (c *rawUnix) RawConn() (net.Conn, syscall.RawConn) { return c, rawOf(c.UnixConn) }

// connected returns the two ends of a connection over a network.
func connected(t *testing.T, network string) (a, b net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	lis, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if a, err = net.Dial(network, lis.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = lis.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// TestSocketsAreKnown: the types that are sockets themselves are used as such.
func TestSocketsAreKnown(t *testing.T) {
	u, u2 := connected(t, "unix")
	defer u.Close()
	defer u2.Close()
	tcp, tcp2 := connected(t, "tcp")
	defer tcp.Close()
	defer tcp2.Close()
	for name, nc := range map[string]net.Conn{"unix": u, "tcp": tcp, "RawConn": &rawUnix{u.(*net.UnixConn)}} {
		if socketOf(nc) == nil || !Interruptible(nc) {
			t.Errorf("%s is not used as a socket", name)
		}
		if tc := tls.Client(nc, &tls.Config{}); socketOf(tc) != nil || !Interruptible(tc) {
			t.Errorf("TLS on %s: used as a socket, or its deadlines are not trusted", name)
		}
	}
	p, _ := net.Pipe()
	if socketOf(p) != nil || Interruptible(p) || Interruptible(tls.Client(p, &tls.Config{})) {
		t.Error("a pipe is taken for a socket")
	}
}

// TestEmbeddedSocketsAreNot: what embeds a socket may have a Read and a Write of its own.
func TestEmbeddedSocketsAreNot(t *testing.T) {
	u, u2 := connected(t, "unix")
	defer u.Close()
	defer u2.Close()
	raw := &rawUnix{u.(*net.UnixConn)}
	for name, nc := range map[string]net.Conn{
		"*net.UnixConn":     struct{ *net.UnixConn }{u.(*net.UnixConn)},
		"a pointer to that": &struct{ *net.UnixConn }{u.(*net.UnixConn)},
		"RawConn":           &struct{ *rawUnix }{raw},
		"RawConn, by value": struct{ *rawUnix }{raw},
		"not comparable": struct {
			*rawUnix
			f func()
		}{rawUnix: raw},
		"net.Conn": struct{ net.Conn }{raw},
	} {
		if Of(nc) != nil || Interruptible(nc) || Interruptible(tls.Client(nc, &tls.Config{})) {
			t.Errorf("%s: what embeds it is taken for a socket", name)
		}
	}
}

// TestPrefixed reads what was read before and what comes then.
func TestPrefixed(t *testing.T) {
	a, b := connected(t, "unix")
	defer b.Close()
	if _, err := a.Write([]byte("lo")); err != nil {
		t.Fatal(err)
	}
	a.Close()
	c := &Prefixed{Conn: b, Begun: []byte("hel")}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if !Interruptible(c) || Of(c) != nil {
		t.Error("it is taken for the socket, or its deadlines are not trusted")
	}
}
