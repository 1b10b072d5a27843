package vmmtest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// hostListen listens on the host for what the guest dials at a port.
func hostListen(t *testing.T, v *vmmtest.VMM, port uint32) *transport.Listener {
	t.Helper()
	l, err := transport.Listen(t.Context(), transport.MuxAddr(v.Path, port), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestGuestDials(t *testing.T) {
	v, _ := start(t, vmmtest.Config{})
	l := hostListen(t, v, 7)
	guest, err := v.Dial(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	host := c.(*transport.Conn)

	if got, want := guest.Peer(), (transport.Peer{Network: "vsock", CID: 2, Port: 7}); got != want {
		t.Errorf("guest's peer %+v, want %+v", got, want)
	}
	if got, want := guest.LocalAddr(), transport.VsockAddr(3, 1024); got != want {
		t.Errorf("guest's address %v, want %v", got, want)
	}
	if p := host.Peer(); p.Network != "vsock-mux" || p.Port != 7 || p.Path != v.Path {
		t.Errorf("host's peer %+v", p)
	}
	mustWrite(t, guest, []byte("question"))
	guest.CloseWrite()
	if got, err := readAll(t, host); string(got) != "question" || err != nil {
		t.Errorf("host read %q, %v", got, err)
	}
	mustWrite(t, host, []byte("answer"))
	host.Close()
	if got, err := readAll(t, guest); string(got) != "answer" || err != nil {
		t.Errorf("guest read %q, %v", got, err)
	}
	wait.For(t, "the connection is gone", func() bool { return v.Stats().Open == 0 })
	if s := v.Stats(); s.FromGuest != 1 || s.FromHost != 0 || s.Resets != 0 {
		t.Errorf("stats %+v; want 1 from the guest", s)
	}
}

// The host's listener sees a reset of what the guest dialed once it has sent
// something.
func TestGuestDialedIsReset(t *testing.T) {
	v, _ := start(t, vmmtest.Config{})
	l := hostListen(t, v, 7)
	guest, err := v.Dial(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	host, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	mustWrite(t, host, []byte("x"))
	mustRead(t, guest, []byte("x"))
	v.Reset()
	_, err = readAll(t, host)
	checkReset(t, "host", err)
	_, err = readAll(t, guest)
	checkReset(t, "guest", err)
}

func TestGuestDialErrors(t *testing.T) {
	v, _ := start(t, vmmtest.Config{})
	_, err := v.Dial(t.Context(), 7)
	if !errors.Is(err, transport.ErrNotListening) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("nobody listens: %v", err)
	}
	v.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	_, err = v.Dial(ctx, 7)
	if !errors.Is(err, transport.ErrGuestBooting) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("paused: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = v.Dial(ctx, 7)
	if !errors.Is(err, transport.ErrCanceled) || !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	v.Close()
	if _, err = v.Dial(t.Context(), 7); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestListen(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	if _, err := v.Listen(1000); !errors.Is(err, transport.ErrAddrInUse) {
		t.Errorf("listening twice: %v", err)
	}
	if err := v.Forward(1000, "unix:/x"); !errors.Is(err, transport.ErrAddrInUse) {
		t.Errorf("forwarding where somebody listens: %v", err)
	}
	if _, err := v.Listen(transport.PortAny); !errors.Is(err, transport.ErrBadAddress) {
		t.Errorf("listening on any port: %v", err)
	}
	host, guest := pair(t, v, l)
	waiting := dial(t, v)
	accepted := make(chan error)
	go func() {
		l.Accept() // the one that waits
		_, err := l.Accept()
		accepted <- err
	}()
	wait.For(t, "two connections", func() bool { return v.Stats().Open == 2 })
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v, want %v", err, net.ErrClosed)
	}
	waiting.Close()
	if _, err := transport.Dial(t.Context(), transport.MuxAddr(v.Path, 1000), nil); !errors.Is(err, transport.ErrVMMClosed) {
		t.Errorf("dial: %v, want %v", err, transport.ErrVMMClosed)
	}
	mustWrite(t, host, []byte("still there"))
	mustRead(t, guest, []byte("still there"))

	l, err := v.Listen(1000)
	if err != nil {
		t.Fatal(err)
	}
	pair(t, v, l)
}

// What was not accepted is closed with the listener.
func TestListenerCloseDropsBacklog(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	c := dial(t, v)
	l.Close()
	if got, err := readAll(t, c); len(got) != 0 || err != nil {
		t.Errorf("read %q, %v; want EOF", got, err)
	}
}

func TestForward(t *testing.T) {
	v, err := vmmtest.Start(vmmtest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	path := filepath.Join(t.TempDir(), "agent.sock")
	if err := v.Forward(1000, "unix:"+path); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Dial(t.Context(), transport.MuxAddr(v.Path, 1000), nil); !errors.Is(err, transport.ErrVMMClosed) {
		t.Errorf("dial before the agent is there: %v, want %v", err, transport.ErrVMMClosed)
	}
	agent, err := transport.Listen(t.Context(), transport.UnixAddr(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	accept := func() (host, guest *transport.Conn) {
		host = dial(t, v)
		c, err := agent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return host, c.(*transport.Conn)
	}

	host, guest := accept()
	data := noise(3 << 20)
	go func() {
		mustWriteAll(t, host, data)
		host.CloseWrite()
	}()
	if got, err := readAll(t, guest); err != nil || !bytes.Equal(got, data) {
		t.Errorf("agent read %d bytes, %v", len(got), err)
	}
	go func() {
		mustWriteAll(t, guest, data)
		guest.Close()
	}()
	if got, err := readAll(t, host); err != nil || !bytes.Equal(got, data) {
		t.Errorf("host read %d bytes, %v", len(got), err)
	}

	resetHost, resetGuest := accept()
	mustWrite(t, resetGuest, []byte("x"))
	mustRead(t, resetHost, []byte("x"))
	v.Reset()
	_, err = readAll(t, resetHost)
	checkReset(t, "host", err)
	_, err = readAll(t, resetGuest)
	checkReset(t, "host", err) // a Unix socket, too

	for _, addr := range []string{"", "vsock:3:1000", "/path"} {
		if err := v.Forward(1001, addr); !errors.Is(err, transport.ErrBadAddress) {
			t.Errorf("forward to %q: %v, want %v", addr, err, transport.ErrBadAddress)
		}
	}
}

func TestPathAndFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fc:1.sock")
	v, err := vmmtest.Start(vmmtest.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vmmtest.Start(vmmtest.Config{Path: path}); err == nil {
		t.Error("two VMMs on one path")
	}
	if v.Path != path || v.Addr(1) != "vsock-mux:"+path+":1" {
		t.Errorf("path %q, address %q", v.Path, v.Addr(1))
	}
	v.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file is still there: %v", err)
	}
	_, err = transport.Dial(t.Context(), transport.MuxAddr(path, 1), nil)
	if !errors.Is(err, transport.ErrNoVMM) {
		t.Errorf("dial without a VMM: %v, want %v", err, transport.ErrNoVMM)
	}

	v = vmmtest.New(t)
	dir := filepath.Dir(v.Path)
	v.Close()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// Close ends connections in every state, and every goroutine.
func TestCloseEndsEverything(t *testing.T) {
	v, l := start(t, vmmtest.Config{RequestTimeout: time.Hour})
	host, guest := pair(t, v, l)

	set := func(h vmmtest.Handshake, f vmmtest.Flow) {
		v.SetFaults(vmmtest.Faults{Handshake: h, HandshakeDelay: time.Hour, ToGuest: f, ToHost: f})
	}
	open := []net.Conn{host, rawDial(t, v, "CONN")}
	for _, h := range []vmmtest.Handshake{vmmtest.HandshakeOK, vmmtest.HandshakeSilent, vmmtest.HandshakeGlued, vmmtest.HandshakeGarbage} {
		set(h, vmmtest.Flow{})
		open = append(open, rawDial(t, v, "CONNECT 1000\n"))
		wait.For(t, "accepted", func() bool { return int(v.Stats().Accepted) == len(open) })
	}
	v.SetFaults(vmmtest.Faults{})
	for _, fault := range []vmmtest.Fault{vmmtest.Stall, vmmtest.Drop, vmmtest.EndFlow} {
		c := dial(t, v)
		mustWrite(t, c, []byte("x"))
		open = append(open, c)
		set(0, vmmtest.Flow{Fault: fault})
		v.SetFaults(vmmtest.Faults{})
	}
	full := dial(t, v)
	full.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	full.Write(noise(4 << 20))
	v.Pause()
	open = append(open, full, rawDial(t, v, "CONNECT 1000\n"))
	wait.For(t, "accepted", func() bool { return int(v.Stats().Accepted) == len(open) })
	guestDial := make(chan error)
	go func() {
		_, err := v.Dial(context.Background(), 7)
		guestDial <- err
	}()
	guestRead := make(chan error)
	go func() {
		_, err := guest.Read(make([]byte, 1))
		guestRead <- err
	}()

	v.Close()
	v.Close()
	for i, c := range open {
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d is still open", i)
		}
	}
	if err := <-guestDial; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the guest's dial: %v", err)
	}
	if err := <-guestRead; err == nil {
		t.Error("the guest has read something")
	}
	for { // those that waited for Accept are gone too
		if _, err := l.Accept(); err != nil {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept: %v", err)
			}
			break
		}
	}
	if _, err := v.Listen(5); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen: %v", err)
	}
	if s := v.Stats(); s.Open != 0 {
		t.Errorf("stats %+v; want none open", s)
	}
	if left := goroutinesLeft(); left != "" {
		t.Errorf("goroutines left:\n%s", left)
	}
}
