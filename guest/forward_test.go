//go:build linux

package guest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/vsockrpc/vsockrpc/agent/forward"
	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// infoOnly answers guest.Dial.
type infoOnly struct {
	guestv1.UnimplementedAgentServiceServer
}

func (infoOnly) Info(context.Context, *guestv1.InfoRequest) (*guestv1.InfoResponse, error) {
	return &guestv1.InfoResponse{Version: "test", ProtocolVersion: 1, Access: &guestv1.Access{Trusted: true}}, nil
}

// forwardGuest is a guest whose agent has the forward service alone. cut breaks
// all connections to it.
func forwardGuest(tb testing.TB, wire guest.Wire, cfg *forward.Config, with ...func(*guest.Config)) (g *guest.Guest, cut func()) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	s := rpc.NewServer(&rpc.ServerConfig{MaxConcurrentStreams: 4096})
	guestv1.RegisterAgentServiceServer(s, infoOnly{})
	guestv1.RegisterForwardServiceServer(s, forward.NewServer(cfg))
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	tb.Cleanup(func() { s.Stop(); wg.Wait() })

	var mu sync.Mutex
	var conns []net.Conn
	config := &guest.Config{Wire: wire, Dialer: func(ctx context.Context) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, conn)
		return conn, err
	}}
	for _, f := range with {
		f(config)
	}
	g, err = guest.Dial(tb.Context(), "test", config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { g.Close() })
	return g, func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	}
}

// listenTCP listens on loopback, which is the guest's and this side's in these
// tests.
func listenTCP(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// dialPair returns a connection of DialContext and its end in the guest.
func dialPair(tb testing.TB, g *guest.Guest, l net.Listener) (host, inGuest net.Conn) {
	tb.Helper()
	host, err := g.DialContext(tb.Context(), l.Addr().Network(), l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	inGuest, err = l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { host.Close(); inGuest.Close() })
	return host, inGuest
}

var wires = []guest.Wire{guest.WireNative, guest.WireGRPC}

func TestTunnelIsAConn(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, _ := forwardGuest(t, wire, nil)
			testConn(t, g)
		})
	}
}

func testConn(t *testing.T, g *guest.Guest) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		defer l.Close()
		c1, err = g.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err = l.Accept()
		return c1, c2, func() { c1.Close(); c2.Close() }, err
	})
}

func TestTunnelHalfClose(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, _ := forwardGuest(t, wire, nil)
			testHalfClose(t, g)
		})
	}
}

func testHalfClose(t *testing.T, g *guest.Guest) {
	t.Helper()
	host, inGuest := dialPair(t, g, listenTCP(t))

	if _, err := io.WriteString(host, "question"); err != nil {
		t.Fatal(err)
	}
	if err := host.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(inGuest); err != nil || string(got) != "question" {
		t.Fatalf("the guest read %q, %v", got, err)
	}
	if _, err := host.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after CloseWrite: %v, want EPIPE", err)
	}
	if _, err := io.WriteString(inGuest, "answer"); err != nil {
		t.Fatal(err)
	}
	inGuest.Close()
	if got, err := io.ReadAll(host); err != nil || string(got) != "answer" {
		t.Fatalf("the host read %q, %v", got, err)
	}
}

func TestTunnelReset(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, cut := forwardGuest(t, wire, nil)
			l := listenTCP(t)
			t.Run("by the guest", func(t *testing.T) {
				host, inGuest := dialPair(t, g, l)
				inGuest.(*net.TCPConn).SetLinger(0)
				inGuest.Close()
				if _, err := host.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("read: %v, want ECONNRESET", err)
				}
			})
			t.Run("by the host", func(t *testing.T) {
				host, inGuest := dialPair(t, g, l)
				host.(interface{ Reset() error }).Reset()
				if _, err := inGuest.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("read: %v, want ECONNRESET", err)
				}
				if _, err := host.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("read of the reset side: %v, want net.ErrClosed", err)
				}
			})
			t.Run("closed with data unread", func(t *testing.T) {
				host, inGuest := dialPair(t, g, l)
				host.Close()
				// The first write may go before the guest's kernel knows.
				for i := 0; ; i++ {
					if _, err := inGuest.Write(make([]byte, 1<<10)); err != nil {
						break
					}
					if i > 1e6 {
						t.Fatal("the guest can write for ever")
					}
				}
			})
			t.Run("connection to the guest lost", func(t *testing.T) {
				host, inGuest := dialPair(t, g, l)
				cut()
				if _, err := host.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("host's read: %v, want ECONNRESET", err)
				}
				if _, err := inGuest.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("guest's read: %v, want ECONNRESET", err)
				}
			})
		})
	}
}

func TestTunnelBulk(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, _ := forwardGuest(t, wire, nil)
			testBulk(t, g)
		})
	}
}

func testBulk(t *testing.T, g *guest.Guest) {
	t.Helper()
	const size = 8 << 20
	host, inGuest := dialPair(t, g, listenTCP(t))
	var wg sync.WaitGroup
	for _, dir := range [][2]net.Conn{{host, inGuest}, {inGuest, host}} {
		want, got := sha256.New(), sha256.New()
		wg.Go(func() {
			src := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
			if _, err := io.Copy(dir[0], io.TeeReader(src, want)); err != nil {
				t.Error(err)
			}
			dir[0].(interface{ CloseWrite() error }).CloseWrite()
		})
		wg.Go(func() {
			n, err := io.Copy(got, dir[1])
			if err != nil || n != size {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
		defer func() {
			if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
				t.Error("what arrived is not what was sent")
			}
		}()
	}
	wg.Wait()
}

func TestTunnelErrors(t *testing.T) {
	g, _ := forwardGuest(t, guest.WireNative, &forward.Config{MaxConnections: 1})
	closed := listenTCP(t)
	closed.Close()
	tests := []struct{ network, addr, reason string }{
		{"tcp", closed.Addr().String(), "connection-refused"},
		{"unix", filepath.Join(t.TempDir(), "none"), "not-found"},
		{"tcp", "no port", "bad-address"},
		{"sctp", "127.0.0.1:1", "bad-network"},
	}
	for _, tt := range tests {
		t.Run(tt.network+" "+tt.reason, func(t *testing.T) {
			_, err := g.DialContext(t.Context(), tt.network, tt.addr)
			var e *guest.Error
			if !errors.As(err, &e) || e.Reason != tt.reason {
				t.Errorf("%v, want reason %s", err, tt.reason)
			}
		})
	}
	t.Run("too many", func(t *testing.T) {
		host, _ := dialPair(t, g, listenTCP(t))
		_, err := g.DialContext(t.Context(), "tcp", listenTCP(t).Addr().String())
		var e *guest.Error
		if !errors.As(err, &e) || e.Reason != "too-many-connections" {
			t.Errorf("%v, want reason too-many-connections", err)
		}
		host.(interface{ Reset() error }).Reset()
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.DialContext(ctx, "tcp", "127.0.0.1:1"); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}
	})
}

func TestTunnelDatagrams(t *testing.T) {
	g, _ := forwardGuest(t, guest.WireNative, nil)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	host, err := g.DialContext(t.Context(), "udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	buf := make([]byte, 64<<10)
	for _, size := range []int{1, 0, 1400, 3, 60000} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		if _, err := host.Write(sent); err != nil {
			t.Fatal(err)
		}
		n, from, err := server.ReadFrom(buf)
		if err != nil || !bytes.Equal(buf[:n], sent) {
			t.Fatalf("the guest got %d bytes, %v; want %d", n, err, size)
		}
		if _, err := server.WriteTo(buf[:n], from); err != nil {
			t.Fatal(err)
		}
		n, err = host.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], sent) {
			t.Fatalf("the host got %d bytes, %v; want %d", n, err, size)
		}
	}
}

func TestListenInGuest(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, _ := forwardGuest(t, wire, nil)
			for _, network := range []string{"tcp", "unix"} {
				addr := "127.0.0.1:0"
				if network == "unix" {
					addr = filepath.Join(t.TempDir(), "l")
				}
				l, err := g.Listen(t.Context(), network, addr)
				if err != nil {
					t.Fatal(err)
				}
				inGuest, err := net.Dial(network, l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				host, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				io.WriteString(inGuest, "hello")
				inGuest.(interface{ CloseWrite() error }).CloseWrite()
				if got, err := io.ReadAll(host); err != nil || string(got) != "hello" {
					t.Errorf("%s: read %q, %v", network, got, err)
				}
				// Closing the listener leaves the connection alone.
				l.Close()
				if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s: accept of a closed listener: %v, want net.ErrClosed", network, err)
				}
				io.WriteString(host, "bye")
				host.Close()
				if got, err := io.ReadAll(inGuest); err != nil || string(got) != "bye" {
					t.Errorf("%s: the guest read %q, %v", network, got, err)
				}
				inGuest.Close()
			}
		})
	}
}

// TestListenAgain shows that a listener outlives the connection to the guest, on the
// same port, and that its Accept ends for good when there is no guest any more.
func TestListenAgain(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, cut := forwardGuest(t, wire, nil)
			l, err := g.Listen(t.Context(), "tcp", "localhost:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			accepted := make(chan net.Conn)
			ended := make(chan error, 1)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						ended <- err
						return
					}
					accepted <- conn
				}
			}()
			for range 3 {
				cut()
				var inGuest net.Conn
				wait.For(t, "a connection to the listener after a cut", func() bool {
					var err error
					if inGuest, err = net.Dial("tcp", l.Addr().String()); err != nil {
						return false
					}
					// Until the agent knows of the cut it is the old call that accepts.
					select {
					case host := <-accepted:
						go func() { io.WriteString(host, "hello"); host.Close() }()
					case <-time.After(time.Second):
						inGuest.Close()
						return false
					}
					got, err := io.ReadAll(inGuest)
					inGuest.Close()
					return err == nil && string(got) == "hello"
				})
			}
			l.Close()
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept of a closed listener: %v, want net.ErrClosed", err)
			}
		})
	}
}

// TestListenGivesUp: without reconnecting, a lost connection ends Accept, now and
// later.
func TestListenGivesUp(t *testing.T) {
	g, cut := forwardGuest(t, guest.WireNative, nil, func(c *guest.Config) { c.Reconnect = -1 })
	l, err := g.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cut()
	for range 2 {
		if conn, err := l.Accept(); err == nil || errors.Is(err, net.ErrClosed) || !guest.Temporary(err) {
			t.Errorf("accept after a cut: %v, %v; want a temporary error", conn, err)
		}
	}
}

func TestListenUnclaimed(t *testing.T) {
	g, _ := forwardGuest(t, guest.WireNative, &forward.Config{AcceptWait: 10 * time.Millisecond})
	l, err := g.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inGuest, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer inGuest.Close()
	if _, err := inGuest.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that nobody accepts: %v, want ECONNRESET", err)
	}
}

// TestStalledTunnel shows that a tunnel which nobody reads stops itself alone.
func TestStalledTunnel(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, _ := forwardGuest(t, wire, nil)
			l := listenTCP(t)
			stalled, inGuest := dialPair(t, g, l)
			// Nobody reads stalled: the guest can write until all buffers
			// between are full.
			var written atomic.Int64
			full := make(chan struct{})
			go func() {
				defer close(full)
				for {
					inGuest.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
					n, err := inGuest.Write(make([]byte, 64<<10))
					written.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
			<-full
			host, other := dialPair(t, g, l)
			go func() { io.Copy(other, other) }()
			for i := range 100 {
				msg := fmt.Sprintf("message %d", i)
				io.WriteString(host, msg)
				buf := make([]byte, len(msg))
				if _, err := io.ReadFull(host, buf); err != nil || string(buf) != msg {
					t.Fatalf("beside a stalled tunnel: %q, %v", buf, err)
				}
			}
			n, err := io.CopyN(io.Discard, stalled, written.Load())
			if err != nil {
				t.Errorf("the stalled tunnel gave %d of %d bytes: %v", n, written.Load(), err)
			}
		})
	}
}

// TestManyShortTunnels shows that nothing is left of tunnels that have ended.
func TestManyShortTunnels(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	g, _ := forwardGuest(t, guest.WireNative, nil)
	l := listenTCP(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	once := func() error {
		c, err := g.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		io.WriteString(c, "ping")
		c.(interface{ CloseWrite() error }).CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil || string(got) != "ping" {
			return fmt.Errorf("got %q, %w", got, err)
		}
		return nil
	}
	if err := once(); err != nil {
		t.Fatal(err)
	}
	n := 1000
	if os.Getenv("VSOCKRPC_STRESS") != "" {
		n = 100_000
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range n / 16 {
				if err := once(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	// Of a connection, what reads it comes and goes: only those of tunnels are counted.
	for {
		buf := make([]byte, 4<<20)
		var left []string
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "guest.(*tunnel)") || strings.Contains(g, "agent/forward.") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
		}
	}
}
