package carriers

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAll(t *testing.T) {
	var names []string
	for _, c := range All(t) {
		names = append(names, c.Name)
	}
	want := "pipe unix vmm"
	if os.Getenv(LabEnv) != "" {
		want += " vsock"
	}
	if got := strings.Join(names, " "); got != want {
		t.Errorf("carriers %q, want %q", got, want)
	}
}

// Every carrier carries several connections at a time, both ways.
func TestEcho(t *testing.T) {
	for _, c := range All(t) {
		t.Run(c.Name, func(t *testing.T) {
			l, dial := c.Listen(t)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer conn.Close()
						io.Copy(conn, conn)
					}()
				}
			}()
			var wg sync.WaitGroup
			for i := range 10 {
				wg.Go(func() {
					conn, err := dial(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					conn.SetDeadline(time.Now().Add(30 * time.Second))
					want := strings.Repeat(string(rune('a'+i)), 1000)
					go io.WriteString(conn, want)
					got := make([]byte, len(want))
					if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
						t.Errorf("echo %q, %v", got, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestPair(t *testing.T) {
	for _, c := range All(t) {
		t.Run(c.Name, func(t *testing.T) {
			client, server := c.Pair(t)
			for _, conn := range []net.Conn{client, server} {
				conn.SetDeadline(time.Now().Add(30 * time.Second))
			}
			go io.WriteString(server, "hello")
			buf := make([]byte, 5)
			if _, err := io.ReadFull(client, buf); err != nil || string(buf) != "hello" {
				t.Errorf("client read %q, %v", buf, err)
			}
			half, ok := client.(interface{ CloseWrite() error })
			if ok != c.HalfClose {
				t.Fatalf("CloseWrite: %v, want %v", ok, c.HalfClose)
			}
			if ok {
				half.CloseWrite()
			} else {
				client.Close()
			}
			if n, err := server.Read(buf); n != 0 || err != io.EOF {
				t.Errorf("server read %d, %v; want EOF", n, err)
			}
		})
	}
}

// A closed listener ends Accept and refuses, and a context ends a dial.
func TestClosed(t *testing.T) {
	for _, c := range All(t) {
		t.Run(c.Name, func(t *testing.T) {
			l, dial := c.Listen(t)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := dial(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("dial: %v, want %v", err, context.Canceled)
			}
			l.Close()
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept: %v, want %v", err, net.ErrClosed)
			}
			if conn, err := dial(t.Context()); err == nil {
				conn.Close()
				t.Error("dial to a closed listener")
			}
		})
	}
}
