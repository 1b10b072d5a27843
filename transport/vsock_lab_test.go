//go:build linux

package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests of this file connect over the loopback (CID 1) of the lab's
// kernel, as root.

func labListen(t *testing.T, cfg *ListenConfig) *Listener {
	t.Helper()
	labOnly(t)
	return mustListen(t, VsockAddr(CIDAny, PortAny), cfg)
}

func TestVsockListenAny(t *testing.T) {
	l := labListen(t, nil)
	if l.addr.CID != CIDAny || l.addr.Port == PortAny || l.addr.Port < firstUnprivilegedPort {
		t.Errorf("Addr = %v, want any CID and a real port", l.addr)
	}
	connect(t, l, nil)

	fixed := VsockAddr(CIDAny, AgentPort)
	if l := mustListen(t, fixed, nil); l.Addr() != net.Addr(fixed) {
		t.Errorf("Addr = %v, want %v", l.Addr(), fixed)
	}
	// The loopback's own CID can be named.
	local := mustListen(t, VsockAddr(CIDLocal, PortAny), nil)
	if local.addr.CID != CIDLocal {
		t.Errorf("Addr = %v, want CID 1", local.addr)
	}
	connect(t, local, nil)
}

func TestVsockListenErrors(t *testing.T) {
	l := labListen(t, nil)
	_, err := Listen(t.Context(), l.addr, nil)
	wantKind(t, err, KindAddrInUse)
	_, err = Listen(t.Context(), VsockAddr(4242, 5000), nil)
	wantKind(t, err, KindAddrNotAvail)
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("%v does not wrap its cause", err)
	}
	l.Close()
	mustListen(t, l.addr, nil) // the port is free at once
}

func TestVsockDialErrors(t *testing.T) {
	l := labListen(t, nil)
	free := dialable(l)
	l.Close()
	tests := []struct {
		addr  Addr
		want  Kind
		cause error
	}{
		{VsockAddr(4242, 1000), KindNoSuchCID, syscall.ENODEV},
		{VsockAddr(0xfffffffe, 1000), KindNoSuchCID, syscall.ENODEV},
		{free, KindNotListening, syscall.ECONNRESET},
	}
	for _, tt := range tests {
		for _, cfg := range []*DialConfig{nil, {PrivilegedPort: true}} {
			_, err := Dial(waitContext(t), tt.addr, cfg)
			e := wantKind(t, err, tt.want)
			if !errors.Is(err, tt.cause) || !e.Temporary() {
				t.Errorf("%v: %v, temporary %v", tt.addr, err, e.Temporary())
			}
		}
	}
}

// TestVsockDialContext cancels attempts at any moment: each ends as connected
// or as canceled, and a connection is not affected afterwards.
func TestVsockDialContext(t *testing.T) {
	l := labListen(t, nil)
	go serveEcho(l)
	var connected int
	for range 200 {
		ctx, cancel := context.WithCancel(waitContext(t))
		canceled := make(chan struct{})
		go func() {
			defer close(canceled)
			cancel()
		}()
		c, err := Dial(ctx, dialable(l), nil)
		<-canceled
		if err != nil {
			wantKind(t, err, KindCanceled)
			if !errors.Is(err, ctx.Err()) {
				t.Fatalf("%v is not %v", err, ctx.Err())
			}
			continue
		}
		connected++
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	t.Logf("%d of 200 connected", connected)
}

func TestVsockConnectTimeout(t *testing.T) {
	l := labListen(t, nil)
	for _, cfg := range []*DialConfig{nil, {Timeout: 10 * time.Second}} {
		c, err := Dial(t.Context(), dialable(l), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		limit := DefaultTimeout
		if cfg != nil {
			limit = cfg.Timeout
		}
		// Never earlier than the limit that was set before the connect.
		if d, err := c.ConnectTimeout(); err != nil || d <= limit-timeoutMargin || d > limit+timeoutMargin+20*time.Millisecond {
			t.Errorf("ConnectTimeout = %v, %v with a limit of %v", d, err, limit)
		}
	}
}

func TestVsockBufferSizes(t *testing.T) {
	// The lab's kernel starts with these.
	const def = 256 << 10
	listen := BufferSizes{Size: 1 << 20, Min: 1000}
	l := labListen(t, &ListenConfig{BufferSizes: listen})
	want := BufferSizes{Size: 1 << 20, Min: 1000, Max: 1 << 20}
	if got, err := l.BufferSizes(); err != nil || got != want {
		t.Errorf("the listener has %+v, %v; want %+v", got, err, want)
	}
	client, server := connect(t, l, &DialConfig{BufferSizes: BufferSizes{Size: 8 << 20, Max: 512 << 10}})
	if got, err := server.BufferSizes(); err != nil || got != want {
		t.Errorf("the accepted connection has %+v, %v; want %+v", got, err, want)
	}
	want = BufferSizes{Size: 512 << 10, Min: 128, Max: 512 << 10}
	if got, err := client.BufferSizes(); err != nil || got != want {
		t.Errorf("the dialed connection has %+v, %v; want it clamped to %+v", got, err, want)
	}
	want = BufferSizes{Size: def, Min: 128, Max: 512 << 10}
	if got, err := client.SetBufferSizes(BufferSizes{Size: def}); err != nil || got != want {
		t.Errorf("SetBufferSizes = %+v, %v; want %+v", got, err, want)
	}

	// The reader's size is what can be sent ahead to it: a writer that nobody
	// reads stops there. Kernels since 2026, and older ones with the fix of
	// CVE-2026-23086, stop also at the writer's own size.
	for _, tt := range []struct{ reader, writer uint64 }{{64 << 10, 256 << 10}, {1 << 20, 1 << 20}} {
		l := labListen(t, &ListenConfig{BufferSizes: BufferSizes{Size: tt.reader}})
		client, _ := connect(t, l, &DialConfig{BufferSizes: BufferSizes{Size: tt.writer}})
		var total uint64
		for n := -1; n != 0 && total < 4<<20; total += uint64(n) {
			client.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			n, _ = client.Write(make([]byte, 4<<20))
		}
		if total != tt.reader {
			t.Errorf("wrote %d bytes to a buffer of %d", total, tt.reader)
		}
	}
}

func TestVsockLocalPort(t *testing.T) {
	l := labListen(t, nil)
	for _, port := range []uint32{5000, 1023, 1} {
		client, server := connect(t, l, &DialConfig{LocalPort: port})
		if server.Peer().Port != port || client.local.Port != port {
			t.Errorf("from port %d: the peer sees %v, the client %v", port, server.Peer(), client.local)
		}
		_, err := Dial(t.Context(), dialable(l), &DialConfig{LocalPort: port})
		wantKind(t, err, KindAddrInUse)
	}
}

func TestVsockPrivilegedPort(t *testing.T) {
	l := labListen(t, nil)
	seen := map[uint32]bool{}
	for range 50 {
		client, server := connect(t, l, &DialConfig{PrivilegedPort: true})
		port := server.Peer().Port
		if port == 0 || port >= firstUnprivilegedPort || port == AgentPort || seen[port] || client.local.Port != port {
			t.Errorf("the peer sees %v, the client %v", server.Peer(), client.local)
		}
		seen[port] = true
	}
}

func TestVsockPrivilegedPortsTaken(t *testing.T) {
	l := labListen(t, nil)
	bound := map[uint32]int{}
	free := func(port uint32) {
		unix.Close(bound[port])
		delete(bound, port)
	}
	defer func() {
		for port := range bound {
			free(port)
		}
	}()
	for port := range firstUnprivilegedPort {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		bound[port] = fd
		// The kernel keeps the port of a test's connection for up to 8 s after its
		// close, until the other side has closed too (VSOCK_CLOSE_TIMEOUT in
		// net/vmw_vsock/virtio_transport_common.c).
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			err := unix.Bind(fd, &unix.SockaddrVM{CID: CIDAny, Port: port})
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(deadline) {
				t.Fatalf("port %d: %v", port, err)
			}
		}
	}
	taken := func() {
		t.Helper()
		_, err := Dial(t.Context(), dialable(l), &DialConfig{PrivilegedPort: true})
		wantKind(t, err, KindAddrInUse)
		if !strings.Contains(err.Error(), "all local ports below 1024 are taken") {
			t.Errorf("error %q", err)
		}
	}
	taken()
	free(AgentPort) // is left for a listener
	taken()
	free(517)
	if client, _ := connect(t, l, &DialConfig{PrivilegedPort: true}); client.local.Port != 517 {
		t.Errorf("dialed from %v, want the free port 517", client.local)
	}
	connect(t, l, nil) // other ports are not affected
}

func TestVsockUnprivileged(t *testing.T) {
	l := labListen(t, nil)
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give it up")
	}
	ctx := waitContext(t)
	var reserved, privileged, fixed, plain, high error
	asNobody(t, func() {
		dial := func(cfg *DialConfig) error {
			c, err := Dial(ctx, dialable(l), cfg)
			if err == nil {
				c.Close()
			}
			return err
		}
		_, reserved = Listen(ctx, VsockAddr(CIDAny, AgentPort), nil)
		privileged = dial(&DialConfig{PrivilegedPort: true})
		fixed = dial(&DialConfig{LocalPort: 1023})
		plain = dial(nil)
		high = dial(&DialConfig{LocalPort: 5001})
	})
	for _, err := range []error{reserved, privileged, fixed} {
		wantKind(t, err, KindPermission)
		if !strings.Contains(err.Error(), "CAP_NET_BIND_SERVICE") || !errors.Is(err, os.ErrPermission) {
			t.Errorf("error %q", err)
		}
	}
	if plain != nil || high != nil {
		t.Errorf("dialing without privilege: %v, %v", plain, high)
	}
}

func TestVsockBacklog(t *testing.T) {
	small := labListen(t, &ListenConfig{Backlog: 1})
	var refused error
	var n int
	for ; n < 10 && refused == nil; n++ {
		var c *Conn
		if c, refused = Dial(t.Context(), dialable(small), nil); refused == nil {
			defer c.Close()
		}
	}
	if n > 4 {
		t.Errorf("a backlog of 1 took %d connections", n)
	}
	wantKind(t, refused, KindNotListening)

	l := labListen(t, nil)
	for range 300 {
		mustDial(t, dialable(l), nil)
	}
	for range 300 {
		mustAccept(t, l)
	}
}
