package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestIdleForwards measures what connections that idle cost, in each of the
// processes that carry them: 1,000 of them if VSOCKRPC_STRESS is set.
func TestIdleForwards(t *testing.T) {
	n := 50
	if os.Getenv("VSOCKRPC_STRESS") != "" {
		n = 1000
	}
	server := echoServer(t, "tcp", "127.0.0.1:0")
	// An agent that is alone in its process, but for one relayed connection.
	sock := filepath.Join(t.TempDir(), "agent")
	agent := startHostCtl(t, "proxy", "local", "--grpc", "unix:"+sock)
	agent.forward()
	host := startHostCtl(t, "port-forward", "unix:"+sock, ":127.0.0.1:"+port(server.Addr()))
	addr := host.forward()

	conns := make([]net.Conn, n)
	connect := func(of []net.Conn) {
		var wg sync.WaitGroup
		for start := range 8 {
			wg.Go(func() {
				for i := start; i < len(of); i += 8 {
					c, err := net.Dial("tcp", addr)
					if err != nil {
						t.Error(err)
						return
					}
					of[i] = c
					io.WriteString(c, "x")
					if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	connect(conns[:10]) // what the first connection costs is no cost of each
	before := [2]int{resident(t, host), resident(t, agent)}
	connect(conns[10:])
	after := [2]int{resident(t, host), resident(t, agent)}
	for i, who := range []string{"host-ctl", "agent"} {
		each := float64(after[i]-before[i]) / float64(n-10)
		t.Logf("%s: %d KiB with 10 connections, %d KiB with %d: %.1f KiB each", who, before[i], after[i], n, each)
		// A buffer that is held while nothing comes, of 32 KiB or more in each
		// direction, would be seen.
		if n >= 1000 && each > 96 {
			t.Errorf("%s: %.1f KiB for each connection that idles", who, each)
		}
	}
	// They still work.
	for _, c := range conns {
		c.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(c, "y")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

// resident returns the resident anonymous memory of a host-ctl, in KiB.
func resident(t *testing.T, h *hostCtl) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "RssAnon:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}
