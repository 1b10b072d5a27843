//go:build linux

package vsockdev

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/transport"
)

// startMux offers a device's guest on a socket, and returns its path.
func startMux(t *testing.T, dev *Device) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "uds")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- dev.ServeMux(l) }()
	t.Cleanup(func() {
		dev.Close()
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("ServeMux: %v", err)
		}
	})
	return path
}

// TestMux connects through the socket, with the transport's own client.
func TestMux(t *testing.T) {
	dev, path := startDevice(t, Config{})
	g := startGuest(t, path, featureEventIdx)
	ports := make(chan uint32, 1)
	g.listen(7, func(c *guestConn) {
		ports <- c.key.host
		echo(c)
	})
	uds := startMux(t, dev)
	c, err := transport.Dial(testContext(t), transport.MuxAddr(uds, 7), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := <-ports
	if low := port < 1024; low != (os.Geteuid() == 0) || !low && port < firstHighPort {
		t.Errorf("uid %d comes from port %d", os.Geteuid(), port)
	}
	if got := c.LocalAddr().(transport.Addr).Port; got != port {
		t.Errorf("OK %d, the guest says %d", got, port)
	}
	want := randomBytes(1 << 20)
	go func() {
		_, _ = c.Write(want)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != string(want) {
		t.Errorf("%d bytes came back of %d, or others: %v", len(got), len(want), err)
	}
	c.Close()
	if _, err := transport.Dial(testContext(t), transport.MuxAddr(uds, 8), nil); !errors.Is(err, transport.ErrVMMClosed) {
		t.Errorf("where nobody listens: %v", err)
	}
	waitNoLinks(t, dev)
}

// TestMuxLines sends requests as clients may, and as they may not.
func TestMuxLines(t *testing.T) {
	dev, path := startDevice(t, Config{})
	startGuest(t, path, 0).listen(7, echo)
	uds := startMux(t, dev)
	for _, tt := range []struct {
		writes []string
		want   string // what follows the answer's line; "-" if there is none
	}{
		{[]string{"CONNECT 7\n"}, ""},
		{[]string{"CONNECT 7\nbytes for the guest\n"}, "bytes for the guest\n"},
		{[]string{"CON", "NECT", " 7", "\nx", "y"}, "xy"},
		{[]string{"CONNECT 7\r\n"}, ""},
		{[]string{"CONNECT 4294967296\n"}, "-"},
		{[]string{"CONNECT -7\n"}, "-"},
		{[]string{"CONNECT\n"}, "-"},
		{[]string{"GET / HTTP/1.1\r\n"}, "-"},
		{[]string{strings.Repeat("CONNECT ", 100)}, "-"},
		{[]string{"CONNECT 7"}, "-"},
		{[]string{"\n"}, "-"},
		{nil, "-"},
	} {
		c, err := net.Dial("unix", uds)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range tt.writes {
			io.WriteString(c, w) // a refused one may fail
		}
		c.(*net.UnixConn).CloseWrite()
		got, _ := io.ReadAll(c)
		answer, rest, ok := strings.Cut(string(got), "\n")
		var port uint32
		if n, _ := fmt.Sscanf(answer, "OK %d", &port); ok != (tt.want != "-") || ok && (n != 1 || rest != tt.want) || !ok && len(got) > 0 {
			t.Errorf("%q: %q", tt.writes, got)
		}
		c.Close()
	}
	waitNoLinks(t, dev)
}

// TestMuxGivesUp has a client leave that waits for the guest.
func TestMuxGivesUp(t *testing.T) {
	dev, path := startDevice(t, Config{})
	d := newDriver(t, path, 0)
	uds := startMux(t, dev)
	c, err := net.Dial("unix", uds)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "CONNECT 7\n")
	d.expect(opRequest, 7)
	c.Close()
	d.expect(opReset, 7)
	waitNoLinks(t, dev)
}

// TestMuxDialer takes the guest's connections at a socket for each port, also
// when its backlog is full for a while.
func TestMuxDialer(t *testing.T) {
	base := filepath.Join(t.TempDir(), "uds")
	dev, path := startDevice(t, Config{Dial: MuxDialer(base)})
	g := startGuest(t, path, 0)
	l, err := net.Listen("unix", base+"_2000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rc, err := l.(*net.UnixListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }); err != nil {
		t.Fatal(err)
	}
	const n = 5
	dialed := make(chan error, n)
	for range n {
		go func() {
			c, err := g.dial(2000)
			if err == nil {
				_, err = io.WriteString(c, "x")
				c.Close()
			}
			dialed <- err
		}()
	}
	for range n {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "x" {
			t.Errorf("%q, %v", got, err)
		}
		c.Close()
	}
	for range n {
		if err := <-dialed; err != nil {
			t.Error(err)
		}
	}
	if _, err := g.dial(2001); !errors.Is(err, errGuestReset) {
		t.Errorf("a port without a socket: %v, want a reset", err)
	}
	waitNoLinks(t, dev)
}

// TestBacklog has more connections wait for Accept than may.
func TestBacklog(t *testing.T) {
	dev, path := startDevice(t, Config{})
	l, err := dev.Listen(2000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dev.Listen(2000); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second listener: %v", err)
	}
	g := startGuest(t, path, 0)
	for range maxBacklog {
		if _, err := g.dial(2000); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.dial(2000); !errors.Is(err, errGuestReset) {
		t.Errorf("one more: %v, want a reset", err)
	}
	if c, err := l.Accept(); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if c, err := g.dial(2000); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept of a closed listener: %v", err)
	}
}

// TestPrivilegedPorts connects as root until there is no port.
func TestPrivilegedPorts(t *testing.T) {
	links := make(map[key]*link)
	var p ports
	p.start()
	for range lowPorts {
		port, ok := p.take(links, 7, true)
		if !ok || port == 0 || port > lowPorts {
			t.Fatal(port, ok)
		}
		links[key{7, port}] = new(link)
	}
	if port, ok := p.take(links, 7, true); ok {
		t.Errorf("one more: %d", port)
	}
	if port, ok := p.take(links, 8, true); !ok || port > lowPorts {
		t.Errorf("to another port of the guest: %d, %v", port, ok)
	}
	if port, ok := p.take(links, 7, false); !ok || port < firstHighPort {
		t.Errorf("not as root: %d, %v", port, ok)
	}
}
