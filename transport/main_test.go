package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// longWait bounds waits for what must happen; nothing depends on its length.
const longWait = 2 * time.Minute

// helperEnv makes the test binary run one of helpers instead of the tests.
const helperEnv = "TRANSPORT_TEST_HELPER"

// helpers are programs that tests start as other processes.
var helpers = map[string]func() error{}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if left := waitForLeftovers(); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines of the package are left:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// waitForLeftovers returns the stacks of goroutines that were started by this
// package and do not end.
func waitForLeftovers() string {
	var left string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = ""
		for _, g := range strings.Split(string(buf), "\n\n")[1:] {
			if strings.Contains(g, "vsockrpc/transport.") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			break
		}
	}
	return left
}

// labOnly skips a test that needs a kernel of its own.
func labOnly(t testing.TB) {
	t.Helper()
	if os.Getenv("VSOCKRPC_LAB") == "" {
		t.Skip("needs AF_VSOCK connections: runs in the lab only (VSOCKRPC_LAB)")
	}
}

// shortDir returns a directory whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// shortPath returns a path for a socket in a directory of the test.
func shortPath(t testing.TB, name string) string {
	return filepath.Join(shortDir(t), name)
}

// waitContext returns a context that ends a test that hangs.
func waitContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longWait)
	t.Cleanup(cancel)
	return ctx
}

func mustListen(t testing.TB, a Addr, cfg *ListenConfig) *Listener {
	t.Helper()
	l, err := Listen(waitContext(t), a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustDial(t testing.TB, a Addr, cfg *DialConfig) *Conn {
	t.Helper()
	c, err := Dial(waitContext(t), a, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(longWait))
	return c
}

func mustAccept(t testing.TB, l *Listener) *Conn {
	t.Helper()
	l.SetDeadline(time.Now().Add(longWait))
	c, err := l.AcceptConn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(longWait))
	return c
}

// connect returns both ends of a connection to l.
func connect(t testing.TB, l *Listener, cfg *DialConfig) (client, server *Conn) {
	t.Helper()
	return mustDial(t, dialable(l), cfg), mustAccept(t, l)
}

// dialable returns the address by which this machine reaches l.
func dialable(l *Listener) Addr {
	a := l.Addr().(Addr)
	if a.CID == CIDAny {
		a.CID = CIDLocal
	}
	return a
}

// serveEcho sends back what comes, until the listener is closed.
func serveEcho(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.CopyBuffer(c, c, make([]byte, 512))
		}()
	}
}

// wantKind checks that err is an *Error of the kind, and its sentinel.
func wantKind(t testing.TB, err error, want Kind) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != want || !errors.Is(err, want) {
		t.Fatalf("error %v (%T), want one of kind %v", err, err, want)
	}
	return e
}

// wantClosed checks that err is that of an operation on something closed.
func wantClosed(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v, want net.ErrClosed", err)
	}
}

// wantTimeout checks that err is that of a deadline.
func wantTimeout(t testing.TB, err error) {
	t.Helper()
	ne, ok := errors.AsType[net.Error](err)
	if !ok || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v, want a timeout", err)
	}
}
