package transport

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestListenBadAddress(t *testing.T) {
	tests := []struct {
		addr Addr
		want string
	}{
		{Addr{}, "unknown network"},
		{VsockAddr(0, 1), "CID 0 is reserved"},
		{MuxAddr("/x", PortAny), "needs a port of its own"},
		{MuxAddr("", 1), "empty path"},
		{UnixAddr(""), "empty path"},
		{UnixAddr("/" + strings.Repeat("x", 200)), "too long"},
	}
	for _, tt := range tests {
		_, err := Listen(t.Context(), tt.addr, nil)
		wantKind(t, err, KindBadAddress)
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: error %q, want it to say %q", tt.addr, err, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Listen(ctx, UnixAddr("/x"), nil)
	wantKind(t, err, KindCanceled)
}

func TestListenerClose(t *testing.T) {
	forEachCarrier(t, func(t *testing.T, c carrier) {
		l := c.listen(t, nil)
		accepted := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		for range 3 {
			if err := l.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		wantClosed(t, <-accepted)
		conn, err := l.Accept()
		wantClosed(t, err)
		if conn != nil {
			t.Errorf("Accept returned %v with its error", conn)
		}
		_, err = Dial(waitContext(t), c.target(l), nil)
		wantKind(t, err, KindNotListening)
	})
}

func TestListenerDeadline(t *testing.T) {
	forEachCarrier(t, func(t *testing.T, c carrier) {
		l := c.listen(t, nil)
		l.SetDeadline(time.Now().Add(-time.Second))
		_, err := l.Accept()
		wantTimeout(t, err)
		l.SetDeadline(time.Time{})
		mustDial(t, c.target(l), nil)
		mustAccept(t, l)
	})
}

func TestAcceptHook(t *testing.T) {
	forEachCarrier(t, func(t *testing.T, c carrier) {
		var seen []Peer
		l := c.listen(t, &ListenConfig{Accept: func(p Peer) error {
			if seen = append(seen, p); len(seen) <= 2 {
				return errors.New("not you")
			}
			return nil
		}})
		accepted := make(chan *Conn, 1)
		go func() {
			c, _ := l.AcceptConn()
			accepted <- c
		}()
		for range 2 {
			refused := mustDial(t, c.target(l), nil)
			if n, err := refused.Read(make([]byte, 1)); err == nil {
				t.Errorf("a refused connection delivered %d bytes", n)
			}
		}
		mustDial(t, c.target(l), nil)
		conn := <-accepted
		if conn == nil {
			t.Fatal("the third connection was not accepted")
		}
		defer conn.Close()
		if len(seen) != 3 || seen[2] != conn.Peer() {
			t.Errorf("the hook saw %v, the connection's peer is %v", seen, conn.Peer())
		}
	})
}

// TestListenerFile hands a listening socket on, as to a new version of the
// program.
func TestListenerFile(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("FileListener is for Linux")
	}
	forEachCarrier(t, func(t *testing.T, c carrier) {
		old := c.listen(t, nil)
		f, err := old.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		l, err := FileListener(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if c.name != "vsock-mux" && l.Addr() != old.Addr() {
			t.Errorf("Addr = %v, want %v", l.Addr(), old.Addr())
		}
		if c.name == "vsock" {
			old.Close()
		}
		mustDial(t, c.target(old), nil)
		mustAccept(t, l)
	})
}

// A brokenAcceptor fails with errs, one after the other, then has a
// connection. With no errors left it blocks until it is closed.
type brokenAcceptor struct {
	acceptor
	errs   []error
	conns  int
	closed chan struct{}
}

func (b *brokenAcceptor) accept() (*Conn, error) {
	switch {
	case len(b.errs) > 0:
		err := b.errs[0]
		b.errs = b.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	case b.conns > 0:
		b.conns--
		return &Conn{}, nil
	}
	<-b.closed
	return nil, errors.New("use of closed file")
}

func (b *brokenAcceptor) close() error {
	close(b.closed)
	return nil
}

func TestAcceptSurvives(t *testing.T) {
	repeat := func(n int, err error) []error {
		var errs []error
		for range n {
			errs = append(errs, err)
		}
		return errs
	}
	tests := []struct {
		name     string
		errs     []error
		min, max time.Duration
	}{
		{"aborted connections", repeat(50, syscall.ECONNABORTED), 0, 0},
		{"no descriptors", repeat(4, syscall.EMFILE), 75 * time.Millisecond, 75 * time.Millisecond},
		{"system out of descriptors", repeat(20, syscall.ENFILE), 10 * time.Second, 20 * time.Second},
		{"no memory", []error{syscall.ENOMEM, syscall.ENOBUFS}, 15 * time.Millisecond, 15 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newListener(&brokenAcceptor{errs: tt.errs, conns: 1, closed: make(chan struct{})}, Addr{}, &ListenConfig{})
				start := time.Now()
				if _, err := l.AcceptConn(); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(start); d < tt.min || d > tt.max {
					t.Errorf("waited %v, want %v to %v", d, tt.min, tt.max)
				}
			})
		})
	}
	t.Run("closed while it waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newListener(&brokenAcceptor{errs: repeat(1000, syscall.EMFILE), closed: make(chan struct{})}, Addr{}, &ListenConfig{})
			accepted := make(chan error)
			go func() {
				_, err := l.AcceptConn()
				accepted <- err
			}()
			time.Sleep(10 * time.Second)
			start := time.Now()
			l.Close()
			err := <-accepted
			// The errors that follow no longer delay anything.
			if wantClosed(t, err); time.Since(start) > 0 {
				t.Errorf("Accept ended %v after Close", time.Since(start))
			}
		})
	})
	t.Run("other errors end it", func(t *testing.T) {
		l := newListener(&brokenAcceptor{errs: []error{syscall.EINVAL}}, Addr{}, &ListenConfig{})
		if _, err := l.AcceptConn(); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("AcceptConn: %v", err)
		}
	})
}

func TestUnixStaleSocket(t *testing.T) {
	path := shortPath(t, "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	l := mustListen(t, UnixAddr(path), nil)
	connect(t, l, nil)

	// A live one is left alone, and goes on.
	_, err = Listen(t.Context(), UnixAddr(path), nil)
	wantKind(t, err, KindAddrInUse)
	l.SetDeadline(time.Now().Add(longWait))
	probe := mustAccept(t, l)
	if _, err := probe.Read(make([]byte, 1)); err == nil {
		t.Error("the probe sent something")
	}
	connect(t, l, nil)

	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Close left the file: %v", err)
	}
}

func TestUnixOtherFile(t *testing.T) {
	path := shortPath(t, "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Listen(t.Context(), UnixAddr(path), nil)
	wantKind(t, err, KindAddrInUse)
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file has %q, %v", b, err)
	}
}

// TestUnixCloseKeepsSuccessor closes a listener whose file was replaced.
func TestUnixCloseKeepsSuccessor(t *testing.T) {
	path := shortPath(t, "s")
	old := mustListen(t, UnixAddr(path), nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor := mustListen(t, UnixAddr(path), nil)
	old.Close()
	connect(t, successor, nil)
}

func TestUnixMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes of socket files on Windows")
	}
	for _, mode := range []fs.FileMode{0o600, 0o660, 0o666, 0o777} {
		path := shortPath(t, "s")
		mustListen(t, UnixAddr(path), &ListenConfig{Mode: mode})
		fi, err := os.Lstat(path)
		if err != nil || fi.Mode().Perm() != mode || fi.Mode().Type() != fs.ModeSocket {
			t.Errorf("mode %v, %v; want %v", fi.Mode(), err, mode)
		}
	}
}

// TestUnixModeFromTheStart looks at the file between bind and chmod.
func TestUnixModeFromTheStart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux takes the mode from the socket")
	}
	path := shortPath(t, "s")
	l, err := bindUnix(t.Context(), path, &ListenConfig{Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode().Perm()&^0o600 != 0 {
		t.Errorf("mode %v, %v; want no more than 0600", fi.Mode(), err)
	}
}

func TestUnixAbstract(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("abstract sockets are Linux's")
	}
	l := mustListen(t, UnixAddr("@vsockrpc-test-"+filepath.Base(shortDir(t))), &ListenConfig{Mode: 0o600})
	connect(t, l, nil)
	_, err := Listen(t.Context(), l.addr, nil)
	wantKind(t, err, KindAddrInUse)
}

func TestMuxListen(t *testing.T) {
	path := shortPath(t, "v.sock")
	l := mustListen(t, MuxAddr(path, 1024), &ListenConfig{Mode: 0o660})
	if l.Addr() != net.Addr(MuxAddr(path, 1024)) {
		t.Errorf("Addr = %v", l.Addr())
	}
	fi, err := os.Lstat(path + "_1024")
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && fi.Mode().Perm() != 0o660 {
		t.Errorf("mode %v", fi.Mode())
	}
	l.Close()
	if _, err := os.Lstat(path + "_1024"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Close left the file: %v", err)
	}
}
