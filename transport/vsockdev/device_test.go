//go:build linux

package vsockdev

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/transport"
)

// forFeatures runs a test with the ways that rings may work.
func forFeatures(t *testing.T, test func(t *testing.T, features uint64)) {
	for name, features := range map[string]uint64{
		"Plain": 0, "EventIdx": featureEventIdx, "Indirect": featureIndirect, "Both": featureEventIdx | featureIndirect,
	} {
		t.Run(name, func(t *testing.T) { test(t, features) })
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// dial connects to a port of the guest.
func dial(t *testing.T, d *Device, port uint32) *Conn {
	t.Helper()
	c, err := d.DialContext(testContext(t), port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*Conn)
}

// TestEcho sends 1 MiB to the guest and back, with a half-close each way.
func TestEcho(t *testing.T) {
	forFeatures(t, func(t *testing.T, features uint64) {
		dev, path := startDevice(t, Config{})
		startGuest(t, path, features).listen(7, echo)
		c := dial(t, dev, 7)
		want := randomBytes(1 << 20)
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(want)
			sent <- errors.Join(err, c.CloseWrite())
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back of %d, or others: %v", len(got), len(want), err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}

// TestFromGuest has the guest connect, to a listener and to Config.Dial.
func TestFromGuest(t *testing.T) {
	forFeatures(t, func(t *testing.T, features uint64) {
		dialed := make(chan uint32, 1)
		ours, theirs := net.Pipe()
		dev, path := startDevice(t, Config{Dial: func(_ context.Context, port uint32) (net.Conn, error) {
			dialed <- port
			return theirs, nil
		}})
		l, err := dev.Listen(2000)
		if err != nil {
			t.Fatal(err)
		}
		g := startGuest(t, path, features)
		for _, port := range []uint32{2000, 2001} {
			gc, err := g.dial(port)
			if err != nil {
				t.Fatal(err)
			}
			host := net.Conn(ours)
			if port == 2000 {
				if host, err = l.Accept(); err != nil {
					t.Fatal(err)
				}
				local, remote := host.LocalAddr(), host.RemoteAddr()
				if local != transport.VsockAddr(2, 2000) || remote != transport.VsockAddr(guestCID, gc.key.guest) {
					t.Errorf("addresses %v, %v", local, remote)
				}
			} else if got := <-dialed; got != port {
				t.Errorf("Dial of port %d, want %d", got, port)
			}
			want := randomBytes(300 << 10)
			go func() {
				_, _ = gc.Write(want)
				gc.Close()
			}()
			if got, err := io.ReadAll(host); err != nil || !bytes.Equal(got, want) {
				t.Errorf("port %d: %d bytes of %d, or others: %v", port, len(got), len(want), err)
			}
			host.Close()
		}
	})
}

// TestConn holds connections to the rules of net.Conn: both ends are Conns, with
// a guest between that passes on what comes.
func TestConn(t *testing.T) {
	dev, path := startDevice(t, Config{})
	l, err := dev.Listen(2000)
	if err != nil {
		t.Fatal(err)
	}
	g := startGuest(t, path, featureEventIdx)
	g.listen(7, func(a *guestConn) {
		b, err := g.dial(2000)
		if err != nil {
			a.Close()
			return
		}
		copyHalf := func(dst, src *guestConn) {
			if _, err := io.Copy(dst, src); err != nil {
				dst.Close()
				src.Close()
			}
			dst.CloseWrite()
		}
		go copyHalf(a, b)
		copyHalf(b, a)
	})
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, err := dev.DialContext(t.Context(), 7)
		if err != nil {
			return nil, nil, nil, err
		}
		b, err := l.Accept()
		if err != nil {
			return nil, nil, nil, err
		}
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

// TestHalfClose ends each direction alone, from each side.
func TestHalfClose(t *testing.T) {
	dev, path := startDevice(t, Config{})
	l, err := dev.Listen(2000)
	if err != nil {
		t.Fatal(err)
	}
	g := startGuest(t, path, featureEventIdx)
	type half interface {
		io.ReadWriteCloser
		CloseWrite() error
	}
	for name, fromGuest := range map[string]bool{"HostFirst": false, "GuestFirst": true} {
		t.Run(name, func(t *testing.T) {
			gc, err := g.dial(2000)
			if err != nil {
				t.Fatal(err)
			}
			hc, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			first, second := half(hc.(*Conn)), half(gc)
			if fromGuest {
				first, second = second, first
			}
			for _, step := range []struct {
				from, to half
				text     string
			}{{first, second, "question"}, {second, first, "answer, after the end of the question"}} {
				if _, err := io.WriteString(step.from, step.text); err != nil {
					t.Fatal(err)
				}
				if err := step.from.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(step.to); err != nil || string(got) != step.text {
					t.Errorf("%q, %v, want %q", got, err, step.text)
				}
			}
			first.Close()
			second.Close()
		})
	}
	waitNoLinks(t, dev)
}

// waitNoLinks waits until the device has no connection of the guest any more,
// and its whole budget.
func waitNoLinks(t *testing.T, d *Device) {
	t.Helper()
	ctx := testContext(t)
	for ctx.Err() == nil {
		d.mu.Lock()
		s := d.session
		d.mu.Unlock()
		if s == nil {
			return
		}
		var left, free int
		if err := s.do(func() { left, free = s.budget.used, s.budget.free }); err != nil {
			return
		}
		if left == 0 && free == d.cfg.Buffers {
			return
		}
	}
	t.Error("connections are left, or their buffers")
}

// TestReset tells what the host's side gets when the guest breaks off.
func TestReset(t *testing.T) {
	dev, path := startDevice(t, Config{})
	g := startGuest(t, path, 0)
	g.listen(7, func(c *guestConn) {
		io.WriteString(c, "last words")
		g.mu.Lock()
		defer g.mu.Unlock()
		c.reset()
		c.settle()
	})
	c := dial(t, dev, 7)
	got, err := io.ReadAll(c)
	if string(got) != "last words" || !errors.Is(err, ErrReset) {
		t.Errorf("read %q, %v, want the last words and %v", got, err, ErrReset)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrReset) {
		t.Errorf("write: %v, want %v", err, ErrReset)
	}
	if _, err := dev.DialContext(testContext(t), 8); !errors.Is(err, ErrRefused) {
		t.Errorf("dial where nobody listens: %v, want %v", err, ErrRefused)
	}
	if _, err := g.dial(9); !errors.Is(err, errGuestReset) {
		t.Errorf("the guest's dial where nobody listens: %v, want a reset", err)
	}
	waitNoLinks(t, dev)
}

// TestGuestGone ends the VM in the middle of everything, and starts it again.
func TestGuestGone(t *testing.T) {
	dev, path := startDevice(t, Config{})
	if _, err := dev.DialContext(testContext(t), 7); !errors.Is(err, ErrNoGuest) {
		t.Errorf("dial before the VM is there: %v, want %v", err, ErrNoGuest)
	}
	for range 3 {
		g := startGuest(t, path, featureEventIdx)
		g.listen(7, func(c *guestConn) {
			io.WriteString(c, "x")
			io.Copy(io.Discard, c)
		})
		c := dial(t, dev, 7)
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		pending := make(chan error, 1)
		g.mu.Lock() // the guest answers no more
		go func() {
			_, err := dev.DialContext(testContext(t), 8)
			pending <- err
		}()
		g.driver.end()
		g.mu.Unlock()
		if _, err := io.ReadAll(c); !errors.Is(err, ErrNoGuest) {
			t.Errorf("read: %v, want %v", err, ErrNoGuest)
		}
		if err := <-pending; !errors.Is(err, ErrNoGuest) && !errors.Is(err, ErrRefused) {
			t.Errorf("dial: %v, want %v", err, ErrNoGuest)
		}
	}
}

// TestSameCID has two VMs with one CID, each with a device of its own.
func TestSameCID(t *testing.T) {
	for _, name := range []string{"one", "two"} {
		dev, path := startDevice(t, Config{})
		startGuest(t, path, 0).listen(7, func(c *guestConn) {
			io.WriteString(c, name)
			c.Close()
		})
		defer func() {
			got, err := io.ReadAll(dial(t, dev, 7))
			if err != nil || string(got) != name {
				t.Errorf("%q, %v, want %q", got, err, name)
			}
		}()
	}
}

// TestStalledReader shows that a connection whose reader on the host does not
// read holds up no other.
func TestStalledReader(t *testing.T) {
	dev, path := startDevice(t, Config{ConnBuffer: 64 << 10})
	l, err := dev.Listen(2000)
	if err != nil {
		t.Fatal(err)
	}
	g := startGuest(t, path, featureEventIdx)
	g.listen(7, echo)
	stalled, err := g.dial(2000)
	if err != nil {
		t.Fatal(err)
	}
	host, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	want := randomBytes(4 << 20)
	written := make(chan error, 1)
	go func() {
		_, err := stalled.Write(want)
		stalled.Close()
		written <- err
	}()
	for range 20 {
		c := dial(t, dev, 7)
		text := randomBytes(100 << 10)
		go func() {
			_, _ = c.Write(text)
			c.CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("beside a stalled one: %d bytes, %v", len(got), err)
		}
		c.Close()
	}
	h := sha256.New()
	if _, err := io.Copy(h, host); err != nil {
		t.Error(err)
	}
	if sum := sha256.Sum256(want); !bytes.Equal(h.Sum(nil), sum[:]) {
		t.Error("other bytes came than were sent")
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	host.Close()
	waitNoLinks(t, dev)
}

// TestLateInterrupt has the guest told that its packets were taken: the last one
// too, when nothing follows.
func TestLateInterrupt(t *testing.T) {
	forFeatures(t, func(t *testing.T, features uint64) {
		_, path := startDevice(t, Config{})
		d := newDriver(t, path, features)
		told := func() {
			t.Helper()
			call := []unix.PollFd{{Fd: int32(d.rings[txRing].call), Events: unix.POLLIN}}
			if n, err := unix.Poll(call, int(limit.Milliseconds())); n != 1 || err != nil {
				t.Fatalf("the guest is not told: %d, %v", n, err)
			}
			_, _ = unix.Read(d.rings[txRing].call, make([]byte, 8))
		}
		for range 3 {
			d.mu.Lock() // the driver wants to hear of the next
			r := d.rings[txRing]
			binary.LittleEndian.PutUint16(d.mem[r.avail+4+2*r.num:], r.next)
			d.mu.Unlock()
			d.send(raw(opReset, 1, 2), nil)
			told()
		}
	})
}
