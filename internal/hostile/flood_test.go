//go:build linux

package hostile

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/agent"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// floods are what those who have no key do to the socket that they share with those
// who have one. To begin TLS costs the agent more than the flood: there it is of
// another user's.
func floods(t *testing.T) map[string]floodKind {
	return map[string]floodKind{
		"silent":      {"", false, 4 * rpc.DefaultMaxHandshakes},
		"a byte":      {"\x16", false, rpc.DefaultMaxHandshakes / 2},
		"the preface": {string(nativePreface), false, rpc.DefaultMaxHandshakes / 2},
		"TLS":         {string(clientHello(t)), true, rpc.DefaultMaxHandshakes},
	}
}

// floodKind is one of them.
type floodKind struct {
	first   string // bytes on each connection
	another bool   // user than the callers
	beside  int    // so many may come while one caller connects
}

// path returns that of the socket to flood.
func (k floodKind) path(t *testing.T, f *fortress) string {
	if k.another {
		return f.serveAs(t, transport.Peer{Network: transport.NetworkUnix, UID: 2000, HasCreds: true})
	}
	return f.usersPath
}

// TestUnknownFlood: more connections than there may be in their handshake are there
// when a caller connects, and more come meanwhile. Each call succeeds.
func TestUnknownFlood(t *testing.T) {
	for name, kind := range floods(t) {
		t.Run(name, func(t *testing.T) {
			f := newFortress(t, "info", &agent.Config{})
			dial := dialUnix(kind.path(t, f))
			held := make([]net.Conn, 2*rpc.DefaultMaxHandshakes)
			n := 0
			connect := func(times int) {
				for range times {
					nc, err := dial(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = nc.Write([]byte(kind.first)) // it may be closed already
					if old := held[n%len(held)]; old != nil {
						old.Close()
					}
					held[n%len(held)] = nc
					n++
				}
			}
			defer func() {
				for _, nc := range held {
					nc.Close()
				}
			}()
			connect(len(held))
			for range 8 {
				cc := keyClient(t, fullKey, func(ctx context.Context) (net.Conn, error) {
					nc, err := f.users(ctx)
					if err != nil {
						return nil, err
					}
					return &meanwhile{Conn: nc, do: func() { connect(kind.beside) }}, nil
				})
				call, done := context.WithTimeout(t.Context(), patience)
				if _, err := guestv1.NewAgentServiceClient(cc).Info(call, &guestv1.InfoRequest{}); err != nil {
					t.Error(err)
				}
				done()
				cc.Close()
			}
		})
	}
}

// meanwhile does something once its connection has said something.
type meanwhile struct {
	net.Conn
	once sync.Once
	do   func()
}

func (c *meanwhile) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.once.Do(c.do)
	return n, err
}

// TestUnknownFloodAtSpeed: the flood comes as fast as it can, and 99 of 100 calls
// succeed, on a machine that does nothing else.
func TestUnknownFloodAtSpeed(t *testing.T) {
	if os.Getenv("VSOCKRPC_STRESS") == "" {
		t.Skip("needs a machine of its own: VSOCKRPC_STRESS is not set")
	}
	for name, kind := range floods(t) {
		t.Run(name, func(t *testing.T) {
			f := newFortress(t, "info", &agent.Config{})
			stop := flood(t, kind.path(t, f), kind.first)
			const clients, calls = 10, 100
			var failed atomic.Int64
			start := time.Now()
			var all sync.WaitGroup
			for range clients {
				all.Go(func() {
					for range calls / clients {
						cc := f.withKey(t, fullKey)
						call, done := context.WithTimeout(t.Context(), patience)
						if _, err := guestv1.NewAgentServiceClient(cc).Info(call, &guestv1.InfoRequest{}); err != nil {
							failed.Add(1)
							t.Log(err)
						}
						done()
						cc.Close()
					}
				})
			}
			all.Wait()
			took := time.Since(start)
			t.Logf("%d of %d calls failed in %v, beside %.0f connects a second", failed.Load(), calls, took, stop())
			if n := failed.Load(); n > calls/100 {
				t.Errorf("%d of %d calls failed", n, calls)
			}
		})
	}
}

// floodEnv, in the environment of this program, has it flood a socket.
const floodEnv = "VSOCKRPC_HOSTILE_FLOOD"

// flood floods a socket from another process until the function that it returns is
// called, which returns how many connections it made in a second.
func flood(t *testing.T, path, first string) (stop func() float64) {
	t.Helper()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), floodEnv+"="+path+"\n"+hex.EncodeToString([]byte(first)))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceValue(func() (rate float64) {
		in.Close()
		_, _ = fmt.Fscan(out, &rate)
		_ = cmd.Wait()
		return rate
	})
	t.Cleanup(func() { end() })
	// Until it has begun.
	var begun string
	if _, err := fmt.Fscan(out, &begun); err != nil {
		t.Fatal(err)
	}
	return end
}

// maybeFlood is the process that flood starts: it makes connections as fast as it
// can until its stdin ends, and holds a thousand of them.
func maybeFlood() {
	path, first, ok := strings.Cut(os.Getenv(floodEnv), "\n")
	if !ok {
		return
	}
	data, err := hex.DecodeString(first)
	if err != nil {
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var made atomic.Int64
	var all sync.WaitGroup
	start := time.Now()
	for range 4 {
		all.Go(func() {
			held := make([]net.Conn, 256)
			for i := 0; ctx.Err() == nil; i++ {
				nc, err := net.Dial("unix", path)
				if err != nil {
					continue // the queue is full
				}
				if made.Add(1) == 2000 {
					fmt.Println("begun")
				}
				_, _ = nc.Write(data) // it may be closed already
				if old := held[i%len(held)]; old != nil {
					old.Close()
				}
				held[i%len(held)] = nc
			}
		})
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	all.Wait()
	fmt.Println(float64(made.Load()) / time.Since(start).Seconds())
	os.Exit(0)
}

// clientHello is what a TLS client sends first.
func clientHello(t *testing.T) []byte {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	cc := keyClient(t, fullKey, func(context.Context) (net.Conn, error) { return a, nil })
	defer cc.Close()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	go func() { _, _ = guestv1.NewAgentServiceClient(cc).Info(ctx, &guestv1.InfoRequest{}) }()
	b.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 64<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}
