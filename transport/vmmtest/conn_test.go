package vmmtest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/nettest"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// resetsShow says whether the host's side can see a reset at any time.
const resetsShow = runtime.GOOS == "linux"

// checkReset checks that err is what a reset gives.
func checkReset(t testing.TB, side string, err error) {
	t.Helper()
	if side == "host" && !resetsShow && (err == nil || err == io.EOF) {
		return
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%s: %v, want %v", side, err, syscall.ECONNRESET)
	}
}

func TestNetConn(t *testing.T) {
	make := func(swap bool) nettest.MakePipe {
		return func() (c1, c2 net.Conn, stop func(), err error) {
			v, err := vmmtest.Start(vmmtest.Config{})
			if err != nil {
				return nil, nil, nil, err
			}
			l, err := v.Listen(1000)
			if err != nil {
				return nil, nil, nil, err
			}
			host, err := transport.Dial(t.Context(), transport.MuxAddr(v.Path, 1000), nil)
			if err != nil {
				return nil, nil, nil, err
			}
			guest, err := l.Accept()
			if err != nil {
				return nil, nil, nil, err
			}
			stop = func() {
				host.Close()
				guest.Close()
				v.Close()
			}
			if swap {
				return guest, host, stop, nil
			}
			return host, guest, stop, nil
		}
	}
	t.Run("host first", func(t *testing.T) { nettest.TestConn(t, make(false)) })
	t.Run("guest first", func(t *testing.T) { nettest.TestConn(t, make(true)) })
}

// The guest's end shows what a guest sees, through the methods of
// transport.Conn.
func TestGuestSeesHost(t *testing.T) {
	v, l := start(t, vmmtest.Config{GuestCID: 42})
	_, guest := pair(t, v, l)
	want := transport.Peer{Network: "vsock", CID: 2, Port: 1 << 30}
	if got := guest.Peer(); got != want {
		t.Errorf("Peer %+v, want %+v", got, want)
	}
	info, ok := guest.AuthInfo().(transport.AuthInfo)
	if !ok || info.Peer != want || info.AuthType() != "peer" || info.SecurityLevel.String() != "NoSecurity" {
		t.Errorf("AuthInfo %#v", guest.AuthInfo())
	}
	for _, tt := range []struct {
		what      string
		got, want net.Addr
	}{
		{"LocalAddr", guest.LocalAddr(), transport.VsockAddr(42, 1000)},
		{"RemoteAddr", guest.RemoteAddr(), transport.VsockAddr(2, 1<<30)},
		{"Listener.Addr", l.Addr(), transport.VsockAddr(transport.CIDAny, 1000)},
	} {
		if tt.got != tt.want {
			t.Errorf("%s %v, want %v", tt.what, tt.got, tt.want)
		}
	}
	if got, want := v.Addr(1000), "vsock-mux:"+v.Path+":1000"; got != want {
		t.Errorf("Addr %s, want %s", got, want)
	}
}

func TestBytesBothWays(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	host, guest := pair(t, v, l)
	data := noise(5 << 20)
	var wg sync.WaitGroup
	for _, c := range []net.Conn{host, guest} {
		wg.Go(func() { mustWriteAll(t, c, data) })
		wg.Go(func() {
			got := make([]byte, len(data))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%T: read wrong bytes: %v", c, err)
			}
		})
	}
	wg.Wait()
	if s := v.Stats(); s.ToGuest != 5<<20 || s.ToHost != 5<<20 {
		t.Errorf("stats %+v; want 5 MiB each way", s)
	}
}

// mustWriteAll is mustWrite for other goroutines than the test's.
func mustWriteAll(t testing.TB, w io.Writer, b []byte) {
	if n, err := w.Write(b); err != nil || n != len(b) {
		t.Errorf("wrote %d of %d bytes: %v", n, len(b), err)
	}
}

type halfCloser interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// sides runs f for a connection in which one side acts on the other.
func sides(t *testing.T, f func(t *testing.T, v *vmmtest.VMM, a, b halfCloser)) {
	for _, name := range []string{"host", "guest"} {
		t.Run(name, func(t *testing.T) {
			v, l := start(t, vmmtest.Config{})
			host, guest := pair(t, v, l)
			if name == "host" {
				f(t, v, host, guest)
			} else {
				f(t, v, guest, host)
			}
		})
	}
}

func TestCloseWrite(t *testing.T) {
	sides(t, func(t *testing.T, v *vmmtest.VMM, a, b halfCloser) {
		question, answer := noise(1<<20), noise(2<<20)
		go func() {
			mustWriteAll(t, a, question)
			a.CloseWrite()
		}()
		got, err := readAll(t, b)
		if err != nil || !bytes.Equal(got, question) {
			t.Fatalf("read %d bytes, %v; want %d and EOF", len(got), err, len(question))
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write after CloseWrite: %v, want %v", err, syscall.EPIPE)
		}
		go func() {
			mustWriteAll(t, b, answer)
			b.CloseWrite()
		}()
		got, err = readAll(t, a)
		if err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("read %d bytes, %v; want %d and EOF", len(got), err, len(answer))
		}
		wait.For(t, "the connection is gone", func() bool { return v.Stats().Open == 0 })
		if s := v.Stats(); s.Resets != 0 {
			t.Errorf("stats %+v; want no reset", s)
		}
	})
}

func TestCloseRead(t *testing.T) {
	sides(t, func(t *testing.T, _ *vmmtest.VMM, a, b halfCloser) {
		a.CloseRead()
		wait.For(t, "the writer learns of it", func() bool {
			_, err := b.Write([]byte("x"))
			return errors.Is(err, syscall.EPIPE)
		})
		if n, err := a.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v after CloseRead; want EOF", n, err)
		}
		mustWrite(t, a, []byte("still"))
		mustRead(t, b, []byte("still"))
	})
}

func TestClose(t *testing.T) {
	sides(t, func(t *testing.T, v *vmmtest.VMM, a, b halfCloser) {
		data := noise(100 << 10)
		mustWrite(t, a, data)
		for range 2 {
			if err := a.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		got, err := readAll(t, b)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, %v; want %d and EOF", len(got), err, len(data))
		}
		wait.For(t, "writes fail", func() bool {
			_, err := b.Write([]byte("x"))
			return errors.Is(err, syscall.EPIPE)
		})
		wait.For(t, "the connection is gone", func() bool { return v.Stats().Open == 0 })
		for what, err := range map[string]error{
			"read":       second(a.Read(make([]byte, 1))),
			"write":      second(a.Write([]byte("x"))),
			"deadline":   a.SetDeadline(time.Time{}),
			"CloseWrite": a.CloseWrite(),
			"CloseRead":  a.CloseRead(),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after close: %v, want %v", what, err, net.ErrClosed)
			}
		}
	})
}

func second(_ int, err error) error { return err }

// An idle connection that one side has closed does not linger, although nobody
// writes to it any more.
func TestCloseAfterCloseWriteIsNoticed(t *testing.T) {
	if !resetsShow {
		t.Skip("only Linux tells")
	}
	sides(t, func(t *testing.T, v *vmmtest.VMM, a, b halfCloser) {
		a.CloseWrite()
		if _, err := readAll(t, b); err != nil {
			t.Fatal(err)
		}
		if s := v.Stats(); s.Open != 1 {
			t.Fatalf("stats %+v; want 1 open", s)
		}
		a.Close()
		wait.For(t, "the connection is gone", func() bool { return v.Stats().Open == 0 })
	})
}

// After a reset both sides still get what had arrived, and then ECONNRESET;
// listeners stay.
func TestReset(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	host, guest := pair(t, v, l)
	idleHost, idleGuest := pair(t, v, l)
	mustWrite(t, host, []byte("to guest"))
	mustWrite(t, guest, []byte("to host"))
	wait.For(t, "delivered", func() bool { s := v.Stats(); return s.ToGuest == 8 && s.ToHost == 7 })

	blocked := make(chan error, 1)
	go func() {
		_, err := idleGuest.Read(make([]byte, 1))
		blocked <- err
	}()
	v.Reset()

	got, err := readAll(t, host)
	if string(got) != "to host" {
		t.Errorf("host read %q", got)
	}
	checkReset(t, "host", err)
	got, err = readAll(t, guest)
	if string(got) != "to guest" {
		t.Errorf("guest read %q", got)
	}
	checkReset(t, "guest", err)
	if _, err := guest.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("guest's write: %v", err)
	}
	checkReset(t, "guest", <-blocked)
	_, err = readAll(t, idleHost)
	checkReset(t, "host", err)

	if s := v.Stats(); s.Open != 0 || s.Resets != 2 {
		t.Errorf("stats %+v; want none open, 2 resets", s)
	}
	host, guest = pair(t, v, l)
	mustWrite(t, host, []byte("anew"))
	mustRead(t, guest, []byte("anew"))
}

func TestWriteBuffers(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	host, guest := pair(t, v, l)
	bufs := net.Buffers{[]byte("ab"), nil, []byte("cde")}
	n, err := guest.WriteBuffers(&bufs)
	if n != 5 || err != nil || len(bufs) != 0 {
		t.Errorf("wrote %d, %v, %d left", n, err, len(bufs))
	}
	mustRead(t, host, []byte("abcde"))

	// What was not written stays.
	guest.SetWriteDeadline(time.Now().Add(-time.Second))
	bufs = net.Buffers{[]byte("fg"), []byte("h")}
	n, err = guest.WriteBuffers(&bufs)
	if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wrote %d, %v past the deadline", n, err)
	}
	if diff := cmp.Diff(net.Buffers{[]byte("fg"), []byte("h")}, bufs); diff != "" {
		t.Errorf("buffers left (-want +got):\n%s", diff)
	}
}

// A writer whose peer does not read is stopped after a bounded number of bytes,
// and goes on when it does.
func TestBackpressure(t *testing.T) {
	sides(t, func(t *testing.T, _ *vmmtest.VMM, a, b halfCloser) {
		data := noise(16 << 20)
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.Write(data)
		if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n > 2<<20 {
			t.Fatalf("wrote %d bytes, %v; want at most 2 MiB and a timeout", n, err)
		}
		a.SetWriteDeadline(time.Time{})
		go mustWriteAll(t, a, data[n:])
		mustRead(t, b, data)
	})
}

func TestErrorsNameTheConnection(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	_, guest := pair(t, v, l)
	guest.CloseWrite()
	_, err := guest.Write([]byte("x"))
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "write" || op.Source != guest.LocalAddr() || op.Addr != guest.RemoteAddr() {
		t.Errorf("error %#v", err)
	}
	if !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("error %q", err)
	}
}
