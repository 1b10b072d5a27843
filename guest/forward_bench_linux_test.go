package guest_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

// A path is a way from a client here to a server in the guest: what the client
// dials.
type path struct {
	name string
	open func(tb testing.TB, server net.Addr) (addr string)
}

// The paths that a forward is compared with. From the host's loopback to the
// guest's goes over one connection in between, a Unix socket in these
// benchmarks: so what does the same with nothing but sockets is two relays, or
// two of socat. One socat alone does less: it leaves the guest out.
var paths = []path{
	{"direct", func(_ testing.TB, server net.Addr) string { return server.String() }},
	{"relays", func(tb testing.TB, server net.Addr) string {
		between := "unix:" + filepath.Join(tb.TempDir(), "s")
		relayTo(tb, between, func() (net.Conn, error) { return net.Dial("tcp", server.String()) })
		return relayTo(tb, "tcp:127.0.0.1:0", func() (net.Conn, error) { return net.Dial("unix", between[len("unix:"):]) })
	}},
	{"socat", func(tb testing.TB, server net.Addr) string {
		between := filepath.Join(tb.TempDir(), "s")
		socat(tb, "UNIX-LISTEN:"+between+",fork", "TCP:"+server.String())
		return socat(tb, "", "UNIX-CONNECT:"+between)
	}},
	{"socat-alone", func(tb testing.TB, server net.Addr) string { return socat(tb, "", "TCP:"+server.String()) }},
	{"forward-native", func(tb testing.TB, server net.Addr) string { return forwardTo(tb, guest.WireNative, server) }},
	{"forward-grpc", func(tb testing.TB, server net.Addr) string { return forwardTo(tb, guest.WireGRPC, server) }},
}

func forwardTo(tb testing.TB, wire guest.Wire, server net.Addr) string {
	g, _ := forwardGuest(tb, wire, nil)
	return relayTo(tb, "tcp:127.0.0.1:0", func() (net.Conn, error) { return g.DialContext(tb.Context(), "tcp", server.String()) })
}

// relayTo relays what connects to "network:address", and returns the address.
func relayTo(tb testing.TB, on string, dial func() (net.Conn, error)) string {
	tb.Helper()
	network, addr, _ := strings.Cut(on, ":")
	l, err := net.Listen(network, addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				other, err := dial()
				if err != nil {
					conn.Close()
					return
				}
				guest.Relay(conn, other)
			}()
		}
	}()
	return l.Addr().String()
}

// socat starts socat on an address of its own, or if that is empty on a free
// port of loopback, and returns where it listens.
func socat(tb testing.TB, listen, connect string) string {
	tb.Helper()
	program, err := exec.LookPath("socat")
	if err != nil {
		tb.Skip(err)
	}
	addr := ""
	if listen == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		addr = l.Addr().String()
		l.Close()
		_, port, _ := net.SplitHostPort(addr)
		listen = "TCP-LISTEN:" + port + ",bind=127.0.0.1,fork,nodelay"
	}
	// With its own 8 KiB it would be slower.
	cmd := exec.Command(program, "-b", "65536", listen, connect)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it forks for each connection
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	// A connection that only tried whether it listens would reach the server.
	for start := time.Now(); !listens(listen, addr); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			tb.Fatal("socat does not listen")
		}
	}
	return addr
}

// listens reports whether somebody listens on a Unix socket of socat's notation,
// or on a port of loopback.
func listens(notation, addr string) bool {
	if path, ok := strings.CutPrefix(notation, "UNIX-LISTEN:"); ok {
		path = strings.TrimSuffix(path, ",fork")
		return listed("/proc/net/unix", func(line string) bool {
			return strings.Contains(line, " 00010000 ") && strings.HasSuffix(line, " "+path) // SO_ACCEPTCON
		})
	}
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	want := fmt.Sprintf(":%04X 00000000:0000 0A ", n) // TCP_LISTEN
	return listed("/proc/net/tcp", func(line string) bool { return strings.Contains(line, want) })
}

func listed(table string, match func(string) bool) bool {
	data, _ := os.ReadFile(table)
	for line := range strings.Lines(string(data)) {
		if match(strings.TrimSpace(line)) {
			return true
		}
	}
	return false
}

// BenchmarkForwardThroughput moves bytes through one connection.
func BenchmarkForwardThroughput(b *testing.B) {
	const block = 64 << 10
	for _, toGuest := range []bool{true, false} {
		name := "to-host/"
		if toGuest {
			name = "to-guest/"
		}
		for _, p := range paths {
			b.Run(name+p.name, func(b *testing.B) {
				l := listenTCP(b)
				addr := p.open(b, l.Addr())
				client, server := dialThrough(b, addr, l)
				from, to := server, client
				if toGuest {
					from, to = client, server
				}
				b.SetBytes(block)
				b.ReportAllocs()
				b.ResetTimer()
				go func() {
					buf := make([]byte, block)
					for range b.N {
						if _, err := from.Write(buf); err != nil {
							return
						}
					}
				}()
				buf := make([]byte, block)
				for range b.N {
					if _, err := io.ReadFull(to, buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkForwardEcho sends 64 bytes and waits for them, again and again.
func BenchmarkForwardEcho(b *testing.B) {
	for _, p := range paths {
		b.Run(p.name, func(b *testing.B) {
			l := listenTCP(b)
			addr := p.open(b, l.Addr())
			client, server := dialThrough(b, addr, l)
			go io.Copy(server, struct{ io.Reader }{server})
			buf := make([]byte, 64)
			took := make([]time.Duration, 0, b.N)
			b.ResetTimer()
			for range b.N {
				start := time.Now()
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client, buf); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
		})
	}
}

// BenchmarkForwardShort makes and ends connections, one after the other.
func BenchmarkForwardShort(b *testing.B) {
	for _, p := range paths {
		b.Run(p.name, func(b *testing.B) {
			l := listenTCP(b)
			addr := p.open(b, l.Addr())
			for range b.N {
				client, server := dialThrough(b, addr, l)
				client.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, server)
				server.Close()
				io.Copy(io.Discard, client)
				client.Close()
			}
		})
	}
}

// dialThrough returns a client's connection by a path to a server, and the
// server's end of it. Bytes have gone through both ways.
func dialThrough(tb testing.TB, addr string, l net.Listener) (client, server net.Conn) {
	tb.Helper()
	client, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { client.Close() })
	if _, err := io.WriteString(client, "x"); err != nil {
		tb.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { server.Close() })
	io.WriteString(server, "x")
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	return client, server
}
