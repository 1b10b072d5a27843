package vmmtest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// patience is how long a test waits for what must happen; it passes only if
// the test fails.
const patience = 30 * time.Second

// TestMain fails if a goroutine of the package outlives the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := goroutinesLeft(); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines left:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// goroutinesLeft waits until no goroutine runs code of vmmtest, and returns the
// stacks of those that do not end.
func goroutinesLeft() string {
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = nil
		for _, stack := range strings.Split(string(buf), "\n\n") {
			if strings.Contains(stack, "transport/vmmtest.(") {
				left = append(left, stack)
			}
		}
		if left == nil {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}

// start starts a VMM with a listener in the guest on port 1000.
func start(t testing.TB, cfg vmmtest.Config) (*vmmtest.VMM, net.Listener) {
	t.Helper()
	v, err := vmmtest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	l, err := v.Listen(1000)
	if err != nil {
		t.Fatal(err)
	}
	return v, l
}

func dial(t testing.TB, v *vmmtest.VMM) *transport.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := transport.Dial(ctx, transport.MuxAddr(v.Path, 1000), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pair returns the two ends of a connection made by the host.
func pair(t testing.TB, v *vmmtest.VMM, l net.Listener) (host *transport.Conn, guest *vmmtest.Conn) {
	t.Helper()
	host = dial(t, v)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return host, c.(*vmmtest.Conn)
}

// rawDial connects to the VMM's socket and sends line.
func rawDial(t testing.TB, v *vmmtest.VMM, line string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", v.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	return c
}

// noise returns n pseudo-random bytes.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// mustRead reads exactly the bytes of want.
func mustRead(t testing.TB, r io.Reader, want []byte) {
	t.Helper()
	if d, ok := r.(interface{ SetReadDeadline(time.Time) error }); ok {
		d.SetReadDeadline(time.Now().Add(patience))
		defer d.SetReadDeadline(time.Time{})
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("read %d of %d bytes: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		if len(want) <= 64 {
			t.Fatalf("read %q, want %q", got, want)
		}
		t.Fatalf("read %d bytes with hash %x, want %x", len(got), sha256.Sum256(got), sha256.Sum256(want))
	}
}

func mustWrite(t testing.TB, w io.Writer, b []byte) {
	t.Helper()
	if n, err := w.Write(b); err != nil || n != len(b) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(b), err)
	}
}

// readAll reads to the end.
func readAll(t testing.TB, c net.Conn) ([]byte, error) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	return io.ReadAll(c)
}

// mustBeSilent checks that c has nothing to read.
func mustBeSilent(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	defer c.SetReadDeadline(time.Time{})
	n, err := c.Read(make([]byte, 1))
	if ne, ok := err.(net.Error); n != 0 || !ok || !ne.Timeout() {
		t.Fatalf("read %d bytes, %v; want a timeout", n, err)
	}
}
