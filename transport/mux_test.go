package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/net/nettest"
)

// fakeVMM serves a VMM's socket with answer, which gets each connection after
// its CONNECT line was read and closes it.
func fakeVMM(t testing.TB, answer func(conn *net.UnixConn, request string)) Addr {
	t.Helper()
	path := shortPath(t, "v.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go answer(conn, readLine(conn))
		}
	}()
	return MuxAddr(path, 1000)
}

func readLine(r io.Reader) string {
	var line []byte
	for b := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); line = append(line, b...) {
		if _, err := io.ReadFull(r, b); err != nil {
			break
		}
	}
	return string(line)
}

// TestHandshakeKeepsEveryByte has servers that speak first, as gRPC's do, with
// their bytes glued to the answer or spread in any way.
func TestHandshakeKeepsEveryByte(t *testing.T) {
	const payload = "PRI * settings\n\x00OK 5\n"
	for _, hostPort := range []uint32{0, 7, 1 << 30, 2147483647, 4294967295} {
		stream := fmt.Sprintf("OK %d\n%s", hostPort, payload)
		for _, piece := range []int{1, 3, len(stream) - len(payload), len(stream)} {
			t.Run(fmt.Sprintf("port %d, %d at a time", hostPort, piece), func(t *testing.T) {
				requests := make(chan string, 1)
				a := fakeVMM(t, func(conn *net.UnixConn, request string) {
					defer conn.Close()
					requests <- request
					for rest := stream; rest != ""; {
						n := min(piece, len(rest))
						io.WriteString(conn, rest[:n])
						rest = rest[n:]
					}
				})
				c := mustDial(t, a, nil)
				got, err := io.ReadAll(c)
				if err != nil || string(got) != payload {
					t.Errorf("read %q, %v; want %q", got, err, payload)
				}
				if r := <-requests; r != "CONNECT 1000\n" {
					t.Errorf("request %q", r)
				}
				if got, want := c.LocalAddr(), MuxAddr(a.Path, hostPort); got != net.Addr(want) {
					t.Errorf("LocalAddr = %v, want %v", got, want)
				}
			})
		}
	}
}

func TestHandshakeFailures(t *testing.T) {
	tests := []struct {
		name, answer string
		want         Kind
	}{
		{"closed", "", KindVMMClosed},
		{"closed in the middle", "OK 12", KindVMMClosed},
		{"closed after OK", "OK", KindVMMClosed},
		{"no number", "OK \n", KindBadHandshake},
		{"no space", "OK\n", KindBadHandshake},
		{"empty line", "\n", KindBadHandshake},
		{"not decimal", "OK 0x10\n", KindBadHandshake},
		{"negative", "OK -1\n", KindBadHandshake},
		{"too large a number", "OK 4294967296\n", KindBadHandshake},
		{"carriage return", "OK 5\r\n", KindBadHandshake},
		{"more words", "OK 5 6\n", KindBadHandshake},
		{"lower case", "ok 5\n", KindBadHandshake},
		{"error text", "ERR no such port\n", KindBadHandshake},
		{"another protocol", "HTTP/1.1 400 Bad Request\r\n", KindBadHandshake},
		{"binary", "\x00\xff\n", KindBadHandshake},
		{"endless line", "OK " + strings.Repeat("0", 10000), KindBadHandshake},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := fakeVMM(t, func(conn *net.UnixConn, _ string) {
				io.WriteString(conn, tt.answer)
				conn.Close()
			})
			_, err := Dial(waitContext(t), a, nil)
			e := wantKind(t, err, tt.want)
			if e.Addr != a || e.Op != "dial" {
				t.Errorf("error is about %q %v", e.Op, e.Addr)
			}
		})
	}

	t.Run("reset", func(t *testing.T) {
		path := shortPath(t, "v.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			// To close with the request unread resets a Unix connection.
			if c, err := l.Accept(); err == nil {
				c.(*net.UnixConn).Read(make([]byte, 1))
				c.Close()
			}
		}()
		_, err = Dial(waitContext(t), MuxAddr(path, 1), nil)
		wantKind(t, err, KindVMMClosed)
	})

	// A garbage answer ends the attempt although the peer keeps the connection.
	t.Run("garbage kept open", func(t *testing.T) {
		done := make(chan struct{})
		defer close(done)
		a := fakeVMM(t, func(conn *net.UnixConn, _ string) {
			defer conn.Close()
			io.WriteString(conn, "hello")
			<-done
		})
		_, err := Dial(waitContext(t), a, nil)
		wantKind(t, err, KindBadHandshake)
	})
}

func TestHandshakeContext(t *testing.T) {
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(waitContext(t))
		gone := make(chan error, 1)
		a := fakeVMM(t, func(conn *net.UnixConn, _ string) {
			defer conn.Close()
			io.WriteString(conn, "OK 12") // and no more
			cancel()
			_, err := conn.Read(make([]byte, 1))
			gone <- err
		})
		_, err := Dial(ctx, a, nil)
		wantKind(t, err, KindCanceled)
		if !errors.Is(err, ctx.Err()) {
			t.Errorf("%v is not %v", err, ctx.Err())
		}
		if err := <-gone; err == nil {
			t.Error("the connection was not closed")
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		a := fakeVMM(t, func(conn *net.UnixConn, _ string) {
			defer conn.Close()
			conn.Read(make([]byte, 1))
		})
		_, err := Dial(ctx, a, nil)
		e, ok := errors.AsType[*Error](err)
		if !ok || !errors.Is(err, ctx.Err()) || !errors.Is(err, ErrTimeout) || !e.Timeout() || !e.Temporary() {
			t.Errorf("error %v, want a timeout that is %v", err, ctx.Err())
		}
	})
	t.Run("own timeout", func(t *testing.T) {
		requests := make(chan string, 100)
		a := fakeVMM(t, func(conn *net.UnixConn, request string) {
			defer conn.Close()
			requests <- request
			conn.Read(make([]byte, 1))
		})
		// The time must be enough to get as far as the request.
		for timeout := 50 * time.Millisecond; ; timeout *= 2 {
			_, err := Dial(waitContext(t), a, &DialConfig{Timeout: timeout})
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrTimeout) {
				t.Fatalf("error %v, want a timeout", err)
			}
			if errors.Is(err, ErrGuestBooting) {
				break
			}
			if timeout > longWait {
				t.Fatalf("error %v, want that the guest does not answer", err)
			}
		}
		if r := <-requests; r != "CONNECT 1000\n" {
			t.Errorf("request %q", r)
		}
	})
	t.Run("no effect afterwards", func(t *testing.T) {
		ctx, cancel := context.WithCancel(waitContext(t))
		a := fakeVMM(t, func(conn *net.UnixConn, _ string) {
			defer conn.Close()
			io.WriteString(conn, "OK 1\n")
			io.Copy(conn, conn)
		})
		c, err := Dial(ctx, a, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cancel()
		if _, err := io.WriteString(c, "still here"); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "still here" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func TestNoVMM(t *testing.T) {
	dir := shortDir(t)
	_, err := Dial(waitContext(t), MuxAddr(dir+"/absent", 1000), nil)
	wantKind(t, err, KindNoVMM)

	path := dir + "/stale"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	_, err = Dial(waitContext(t), MuxAddr(path, 1000), nil)
	wantKind(t, err, KindNoVMM)

	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Dial(waitContext(t), MuxAddr(dir+"/file", 1000), nil)
	wantKind(t, err, KindNoVMM)
}

// TestMuxConn shows that what Dial returns for vsock-mux is a full connection.
func TestMuxConn(t *testing.T) {
	guest := make(chan *net.UnixConn)
	a := fakeVMM(t, func(conn *net.UnixConn, _ string) {
		io.WriteString(conn, "OK 1073741824\n")
		guest <- conn
	})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c, err := Dial(t.Context(), a, nil)
		if err != nil {
			return nil, nil, nil, err
		}
		g := <-guest
		return c, g, func() { c.Close(); g.Close() }, nil
	})

	c := mustDial(t, a, nil)
	g := <-guest
	t.Cleanup(func() { g.Close() })
	testHalfClose(t, c, &Conn{stream: g})
	p := c.Peer()
	if p.Network != NetworkMux || p.Path != a.Path || p.Port != a.Port || p.CID != 0 {
		t.Errorf("Peer = %+v", p)
	}
}

func FuzzReadAnswer(f *testing.F) {
	for _, s := range []string{"OK 1073741824\nrest", "OK 5\n", "OK", "", "\n", "OK 4294967296\n", "OK 00000000000000000000000000000001\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, wrap := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r },
			iotest.OneByteReader,
			iotest.DataErrReader,
		} {
			count := &countingReader{r: wrap(bytes.NewReader(data))}
			n, err := readAnswer(count)
			line, rest, complete := bytes.Cut(data, []byte("\n"))
			want := fmt.Sprintf("OK %d", n)
			switch {
			case err == nil:
				digits, ok := strings.CutPrefix(string(line), "OK ")
				if !complete || !ok || strings.TrimLeft(digits, "0") != strings.TrimLeft(want[3:], "0") {
					t.Fatalf("accepted %q as %d", data, n)
				}
				if count.n != len(data)-len(rest) {
					t.Fatalf("read %d bytes of %q", count.n, data)
				}
			case !errors.Is(err, errBadAnswer) && !errors.Is(err, errHungUp):
				t.Fatalf("%q: unexpected error %v", data, err)
			}
			if count.n > maxAnswer {
				t.Fatalf("read %d bytes of %q", count.n, data)
			}
		}
	})
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}
