//go:build linux

package guest_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/vsockrpc/vsockrpc/guest"
)

// tcpPair returns the ends of a connection over loopback.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l := listenTCP(t)
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// TestRelay joins a connection here with one into the guest, and has each side
// in turn end or break.
func TestRelay(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, _ := forwardGuest(t, wire, nil)
			l := listenTCP(t)
			// ends returns the two ends of a relayed connection, and what Relay
			// returns.
			ends := func(t *testing.T) (client, server *net.TCPConn, result <-chan error) {
				client, local := tcpPair(t)
				host, inGuest := dialPair(t, g, l)
				done := make(chan error, 1)
				go func() { done <- guest.Relay(local, host) }()
				return client, inGuest.(*net.TCPConn), done
			}
			for _, swap := range []bool{false, true} {
				name := "client first"
				if swap {
					name = "server first"
				}
				t.Run(name, func(t *testing.T) {
					t.Run("half-close", func(t *testing.T) {
						a, b, result := ends(t)
						if swap {
							a, b = b, a
						}
						question := strings.Repeat("question ", 20_000)
						go func() {
							io.WriteString(a, question)
							a.CloseWrite()
						}()
						if got, err := io.ReadAll(b); err != nil || string(got) != question {
							t.Fatalf("%d bytes, %v", len(got), err)
						}
						io.WriteString(b, "answer")
						b.Close()
						if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
							t.Fatalf("%q, %v", got, err)
						}
						if err := <-result; err != nil {
							t.Errorf("Relay: %v", err)
						}
					})
					t.Run("reset", func(t *testing.T) {
						a, b, result := ends(t)
						if swap {
							a, b = b, a
						}
						io.WriteString(a, "x")
						if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
							t.Fatal(err)
						}
						a.SetLinger(0)
						a.Close()
						if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
							t.Errorf("read: %v, want ECONNRESET", err)
						}
						if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
							t.Errorf("Relay: %v, want ECONNRESET", err)
						}
					})
				})
			}
		})
	}
}

// TestRelayLastWords: who stops reading may still have said why.
func TestRelayLastWords(t *testing.T) {
	g, _ := forwardGuest(t, guest.WireNative, nil)
	client, local := tcpPair(t)
	host, inGuest := dialPair(t, g, listenTCP(t))
	done := make(chan error, 1)
	go func() { done <- guest.Relay(local, host) }()

	// The server reads nothing, answers, and closes, which resets the
	// connection once the client goes on sending.
	const answer = "413 too large"
	go func() {
		io.WriteString(inGuest, answer)
		inGuest.(*net.TCPConn).CloseWrite()
	}()
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(client, got); err != nil || string(got) != answer {
		t.Fatalf("%q, %v", got, err)
	}
	if n, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("%d, %v, want EOF", n, err)
	}
	inGuest.(*net.TCPConn).SetLinger(0)
	inGuest.Close()
	for {
		if _, err := client.Write(make([]byte, 1<<10)); err != nil {
			break
		}
	}
	if err := <-done; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Relay: %v", err)
	}
}

// TestCloseLingers: with SetLinger, Close returns when the guest has all.
func TestCloseLingers(t *testing.T) {
	for _, wire := range wires {
		t.Run(string(wire), func(t *testing.T) {
			g, cut := forwardGuest(t, wire, nil)
			host, inGuest := dialPair(t, g, listenTCP(t))
			inGuest.(*net.TCPConn).CloseWrite()
			if _, err := io.ReadAll(host); err != nil {
				t.Fatal(err)
			}
			data := strings.Repeat("x", 32<<10)
			io.WriteString(host, data)
			host.(interface{ SetLinger(int) error }).SetLinger(60)
			host.Close()
			cut()
			if got, err := io.ReadAll(inGuest); err != nil || string(got) != data {
				t.Errorf("%d bytes, %v", len(got), err)
			}

			g, _ = forwardGuest(t, wire, nil)
			host, inGuest = dialPair(t, g, listenTCP(t))
			host.(interface{ SetLinger(int) error }).SetLinger(0)
			host.Close()
			if _, err := inGuest.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("closed with a linger of 0: %v, want ECONNRESET", err)
			}
		})
	}
}

func TestDialAgent(t *testing.T) {
	g, _ := forwardGuest(t, guest.WireNative, nil)
	conn, err := g.DialAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g.Close()
	// An HTTP/2 server speaks when it has got the preface.
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 9)
	if _, err := io.ReadFull(conn, head); err != nil || head[3] != 4 {
		t.Errorf("no SETTINGS frame: % x, %v", head, err)
	}
}
