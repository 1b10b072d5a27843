package main

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/agent/access"
)

// TestLossOfAgent: an agent that is away is said to be, and it is tried until it is back
// although nothing is called. -q says nothing.
func TestLossOfAgent(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "a")
		stop, err := runAgent(path, access.Rules{Mode: access.ModeEmbedded}, access.FaceAll)
		if err != nil {
			t.Fatal(err)
		}
		front, cut := cutter(t, path)
		stderr := &lockedBuffer{}
		c := &cli{stdout: io.Discard, stderr: stderr, connectTimeout: 10 * time.Second, quiet: quiet}
		g, err := c.dial(t.Context(), "unix:"+front)
		if err != nil {
			t.Fatal(err)
		}
		cut(true)
		await := func(text string) {
			for deadline := time.Now().Add(time.Minute); !strings.Contains(stderr.String(), text); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("stderr %q, want %q", stderr, text)
				}
			}
		}
		if quiet {
			time.Sleep(lossQuiet + 200*time.Millisecond)
		} else {
			await("host-ctl: connection to unix:" + front + " lost, reconnecting\n")
			cut(false)
			await("is back after ")
		}
		c.close(g)
		stop()
		if quiet && stderr.String() != "" || strings.Count(stderr.String(), "\n") > 2 {
			t.Errorf("quiet %t: %q", quiet, stderr)
		}
	}
}

// cutter listens on a socket that leads to another, and can be cut.
func cutter(t *testing.T, to string) (path string, cut func(off bool)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "c")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var mu sync.Mutex
	off := false
	open := make(map[net.Conn]bool)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			other, err := net.Dial("unix", to)
			if off || err != nil {
				conn.Close()
				if err == nil {
					other.Close()
				}
				mu.Unlock()
				continue
			}
			open[conn], open[other] = true, true
			mu.Unlock()
			go func() { io.Copy(other, conn); other.Close() }()
			go func() { io.Copy(conn, other); conn.Close() }()
		}
	}()
	return path, func(now bool) {
		mu.Lock()
		defer mu.Unlock()
		if off = now; off {
			for c := range open {
				c.Close()
			}
			clear(open)
		}
	}
}
