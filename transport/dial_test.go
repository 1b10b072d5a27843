package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDialBadAddress(t *testing.T) {
	tests := []struct {
		name string
		addr Addr
		cfg  *DialConfig
		want string
	}{
		{name: "zero", want: "unknown network"},
		{name: "tcp", addr: Addr{Net: "tcp"}, want: "unknown network"},
		{name: "CID 0", addr: VsockAddr(0, 1), want: "CID 0 is reserved"},
		{name: "CID any", addr: VsockAddr(CIDAny, 1), want: "CID any (-1) is for listening only"},
		{name: "port any", addr: VsockAddr(3, PortAny), want: "port any (-1) is for listening only"},
		{name: "two local ports", addr: VsockAddr(3, 1), cfg: &DialConfig{LocalPort: 5, PrivilegedPort: true}, want: "exclude each other"},
		{name: "mux port any", addr: MuxAddr("/x", PortAny), want: "port any (-1) is for listening only"},
		{name: "mux without path", addr: MuxAddr("", 1), want: "empty path"},
		{name: "unix without path", addr: UnixAddr(""), want: "empty path"},
		{name: "local port of unix", addr: UnixAddr("/x"), cfg: &DialConfig{LocalPort: 5}, want: "local port is for vsock only"},
		{name: "long path", addr: UnixAddr("/" + strings.Repeat("x", 200)), want: "too long"},
		{name: "long path of mux", addr: MuxAddr("/"+strings.Repeat("x", 200), 1), want: "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Dial(waitContext(t), tt.addr, tt.cfg)
			wantKind(t, err, KindBadAddress)
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want it to say %q", err, tt.want)
			}
		})
	}
}

// TestDialContextOver dials with a context that is done: no network is tried.
func TestDialContextOver(t *testing.T) {
	canceled, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the user left")
	cancel(reason)
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelLate()
	l := carriers[0].listen(t, nil)
	for _, a := range []Addr{VsockAddr(3, 1), MuxAddr(l.addr.Path, 1), l.addr} {
		_, err := Dial(canceled, a, nil)
		wantKind(t, err, KindCanceled)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, reason) {
			t.Errorf("%v: error %v, want that of the context and its cause", a, err)
		}
		_, err = Dial(late, a, nil)
		e := wantKind(t, err, KindTimeout)
		if !errors.Is(err, late.Err()) || !e.Timeout() {
			t.Errorf("%v: error %v, want that of the context", a, err)
		}
	}
}

func TestDialUnixFailures(t *testing.T) {
	dir := shortDir(t)
	_, err := Dial(waitContext(t), UnixAddr(dir+"/absent"), nil)
	e := wantKind(t, err, KindNotListening)
	if !e.Temporary() || e.Timeout() {
		t.Errorf("Temporary = %v, Timeout = %v", e.Temporary(), e.Timeout())
	}
	if want := "dial unix:" + dir + "/absent: nobody listens on this path: "; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error %q, want it to begin with %q", err, want)
	}

	l := mustListen(t, UnixAddr(dir+"/closed"), nil)
	l.acceptor.(*unixAcceptor).created = nil // leave the file
	l.Close()
	_, err = Dial(waitContext(t), l.addr, nil)
	wantKind(t, err, KindNotListening)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error %v does not wrap its cause", err)
	}
}

// TestDialFullBacklog has a server that does not accept: Dial waits, as a
// blocking connect would, until there is room or the context ends.
func TestDialFullBacklog(t *testing.T) {
	l := mustListen(t, UnixAddr(shortPath(t, "s")), &ListenConfig{Backlog: 1})
	var full error
	var queued int
	for full == nil && queued < 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		var c *Conn
		if c, full = Dial(ctx, l.addr, nil); full == nil {
			defer c.Close()
			queued++
		}
		cancel()
	}
	if full == nil {
		t.Skip("this system does not bound the backlog of Unix sockets")
	}
	wantKind(t, full, KindTimeout)
	if !errors.Is(full, context.DeadlineExceeded) {
		t.Errorf("error %v", full)
	}

	dialed := make(chan error, 1)
	go func() {
		c, err := Dial(waitContext(t), l.addr, nil)
		if err == nil {
			c.Close()
		}
		dialed <- err
	}()
	for range queued + 1 {
		mustAccept(t, l)
	}
	if err := <-dialed; err != nil {
		t.Errorf("Dial after there was room: %v", err)
	}
}

// TestContextDialer uses the dialer as grpc-go and http.Transport do.
func TestContextDialer(t *testing.T) {
	l := carriers[0].listen(t, nil)
	go serveEcho(l)
	for _, addr := range []string{l.addr.String(), "unix:///" + l.addr.Path} {
		conn, err := ContextDialer(nil)(waitContext(t), addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "x")
		if b, err := io.ReadAll(io.LimitReader(conn, 1)); err != nil || string(b) != "x" {
			t.Errorf("read %q, %v", b, err)
		}
		conn.Close()
	}
	for _, addr := range []string{"nonsense", "unix:" + l.addr.Path + ".absent"} {
		if conn, err := ContextDialer(nil)(waitContext(t), addr); err == nil || conn != net.Conn(nil) {
			t.Errorf("%s: %v, %v; want an error and a nil connection", addr, conn, err)
		}
	}
}
