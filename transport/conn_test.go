package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// A carrier is a network over which the same tests run.
type carrier struct {
	name   string
	listen func(testing.TB, *ListenConfig) *Listener
	// target is the address by which to reach what listen returned.
	target func(*Listener) Addr
}

var carriers = []carrier{
	{
		name: "unix",
		listen: func(t testing.TB, cfg *ListenConfig) *Listener {
			return mustListen(t, UnixAddr(shortPath(t, "s")), cfg)
		},
		target: dialable,
	},
	{
		// The listening side of vsock-mux, dialed as the VMM dials it.
		name: "vsock-mux",
		listen: func(t testing.TB, cfg *ListenConfig) *Listener {
			return mustListen(t, MuxAddr(shortPath(t, "v"), 1000), cfg)
		},
		target: func(l *Listener) Addr { return UnixAddr(muxListenPath(l.addr)) },
	},
	{
		name: "vsock",
		listen: func(t testing.TB, cfg *ListenConfig) *Listener {
			return mustListen(t, VsockAddr(CIDAny, PortAny), cfg)
		},
		target: dialable,
	},
}

func forEachCarrier(t *testing.T, f func(t *testing.T, c carrier)) {
	for _, c := range carriers {
		t.Run(c.name, func(t *testing.T) {
			if c.name == NetworkVsock {
				labOnly(t)
			}
			f(t, c)
		})
	}
}

// pair returns a new connection's ends.
func (c carrier) pair(t testing.TB) (client, server *Conn) {
	t.Helper()
	l := c.listen(t, nil)
	return mustDial(t, c.target(l), nil), mustAccept(t, l)
}

// A pairer makes connections, of a carrier or otherwise.
type pairer struct {
	name string
	pair func(testing.TB) (client, server *Conn)
}

// morePairs are connections of operating systems, made without a carrier.
var morePairs []pairer

// forEachPair runs f for every way to have a connection.
func forEachPair(t *testing.T, f func(t *testing.T, p pairer)) {
	for _, p := range morePairs {
		t.Run(p.name, func(t *testing.T) { f(t, p) })
	}
	forEachCarrier(t, func(t *testing.T, c carrier) { f(t, pairer{c.name, c.pair}) })
}

// TestNetConn runs the tests that golang.org/x/net has for every net.Conn:
// deadlines, timeouts, closing, concurrent use.
func TestNetConn(t *testing.T) {
	forEachPair(t, func(t *testing.T, c pairer) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			client, server := c.pair(t)
			client.SetDeadline(time.Time{})
			server.SetDeadline(time.Time{})
			return client, server, func() { client.Close(); server.Close() }, nil
		})
	})
}

func TestHalfClose(t *testing.T) {
	forEachPair(t, func(t *testing.T, c pairer) {
		client, server := c.pair(t)
		testHalfClose(t, client, server)
	})
}

// testHalfClose sends, closes the sending side, and gets an answer afterwards.
func testHalfClose(t *testing.T, client, server *Conn) {
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(server); err != nil || string(got) != "question" {
		t.Fatalf("server read %q, %v", got, err)
	}
	if _, err := server.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
		t.Fatalf("client read %q, %v", got, err)
	}
	if _, err := client.Write([]byte("more")); err == nil {
		t.Error("Write after CloseWrite succeeded")
	}
}

func TestCloseRead(t *testing.T) {
	forEachPair(t, func(t *testing.T, c pairer) {
		client, server := c.pair(t)
		if err := client.CloseRead(); err != nil {
			t.Fatal(err)
		}
		if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read after CloseRead = %d, %v; want EOF", n, err)
		}
		if _, err := client.Write([]byte("x")); err != nil {
			t.Errorf("Write after CloseRead: %v", err)
		}
		if b, err := io.ReadAll(io.LimitReader(server, 1)); err != nil || string(b) != "x" {
			t.Errorf("server read %q, %v", b, err)
		}
	})
}

func TestEndOfFileOnClose(t *testing.T) {
	forEachPair(t, func(t *testing.T, c pairer) {
		client, server := c.pair(t)
		if _, err := client.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(server); err != nil || string(got) != "last words" {
			t.Errorf("server read %q, %v", got, err)
		}
	})
}

func TestClose(t *testing.T) {
	forEachPair(t, func(t *testing.T, c pairer) {
		client, _ := c.pair(t)
		blocked := make(chan error, 2)
		go func() {
			_, err := client.Read(make([]byte, 1))
			blocked <- err
		}()
		go func() {
			_, err := client.Write(make([]byte, 4<<20)) // more than any buffer
			blocked <- err
		}()
		for range 3 {
			if err := client.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		for range cap(blocked) {
			wantClosed(t, <-blocked)
		}
		_, err := client.Read(make([]byte, 1))
		wantClosed(t, err)
		_, err = client.Write([]byte("x"))
		wantClosed(t, err)
		_, err = client.WriteBuffers(&net.Buffers{[]byte("x")})
		wantClosed(t, err)
		wantClosed(t, client.CloseRead())
		wantClosed(t, client.CloseWrite())
		wantClosed(t, client.SetDeadline(time.Time{}))
	})
}

func TestDeadlines(t *testing.T) {
	forEachPair(t, func(t *testing.T, c pairer) {
		client, server := c.pair(t)
		past := time.Now().Add(-time.Second)

		client.SetReadDeadline(past)
		_, err := client.Read(make([]byte, 1))
		wantTimeout(t, err)
		if _, err := client.Write([]byte("x")); err != nil {
			t.Errorf("Write with a read deadline: %v", err)
		}
		client.SetReadDeadline(time.Time{})

		// A write that nobody reads blocks, and its deadline ends it.
		client.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := client.Write(make([]byte, 8<<20))
		wantTimeout(t, err)
		if n == 8<<20 {
			t.Error("Write took all bytes although nobody read them")
		}
		bufs := net.Buffers{make([]byte, 4<<20), make([]byte, 4<<20)}
		_, err = client.WriteBuffers(&bufs)
		wantTimeout(t, err)

		// A deadline that is moved wakes a read that is blocked already.
		server.SetReadDeadline(time.Time{})
		io.CopyN(io.Discard, server, 1)
		readErr := make(chan error, 1)
		go func() {
			_, err := client.Read(make([]byte, 1))
			readErr <- err
		}()
		client.SetReadDeadline(past)
		wantTimeout(t, <-readErr)
	})
}

func TestWriteBuffers(t *testing.T) {
	random := make([]byte, 8<<20)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	// split cuts random into n pieces of about the same size.
	split := func(n int) net.Buffers {
		var bufs net.Buffers
		for i := range n {
			bufs = append(bufs, random[i*len(random)/n:(i+1)*len(random)/n])
		}
		return bufs
	}
	tests := []struct {
		name string
		bufs net.Buffers
	}{
		{"none", nil},
		{"empty ones", net.Buffers{nil, {}, nil}},
		{"empty ones between", net.Buffers{nil, []byte("a"), {}, []byte("bc"), nil}},
		{"header and body", net.Buffers{[]byte("head"), random[:1<<20]}},
		{"more than IOV_MAX", split(5000)},
		{"larger than the socket's buffer", split(3)},
	}
	forEachPair(t, func(t *testing.T, c pairer) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				client, server := c.pair(t)
				want := bytes.Join(tt.bufs, nil)
				got := make(chan []byte, 1)
				go func() {
					b, _ := io.ReadAll(server)
					got <- b
				}()
				bufs := append(net.Buffers(nil), tt.bufs...)
				n, err := client.WriteBuffers(&bufs)
				if err != nil || n != int64(len(want)) {
					t.Errorf("WriteBuffers = %d, %v; want %d", n, err, len(want))
				}
				if len(bufs) != 0 {
					t.Errorf("%d buffers are left", len(bufs))
				}
				client.CloseWrite()
				if b := <-got; !bytes.Equal(b, want) {
					t.Errorf("the peer read %d bytes, which differ from the %d written", len(b), len(want))
				}
			})
		}
	})
}

// TestWritesAreNotInterleaved lets writers of both kinds compete with records
// that need several system calls each.
func TestWritesAreNotInterleaved(t *testing.T) {
	const writers, records, size = 4, 8, 300 << 10
	forEachPair(t, func(t *testing.T, c pairer) {
		client, server := c.pair(t)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for range records {
					record := bytes.Repeat([]byte{byte('a' + w)}, size)
					var err error
					if w%2 == 0 {
						_, err = client.Write(record)
					} else {
						_, err = client.WriteBuffers(&net.Buffers{record[:size/3], record[size/3:]})
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		record := make([]byte, size)
		for range writers * records {
			if _, err := io.ReadFull(server, record); err != nil {
				t.Fatal(err)
			}
			if bytes.Count(record, record[:1]) != size {
				t.Fatal("two writes were mixed")
			}
		}
		wg.Wait()
	})
}

func TestManyConnections(t *testing.T) {
	const n = 1000
	forEachCarrier(t, func(t *testing.T, c carrier) {
		l := c.listen(t, nil)
		served := make(chan struct{})
		go func() {
			defer close(served)
			serveEcho(l)
		}()
		conns := make([]*Conn, n)
		for i := range conns {
			conns[i] = mustDial(t, c.target(l), nil)
			if _, err := fmt.Fprintf(conns[i], "%8d", i); err != nil {
				t.Fatal(err)
			}
		}
		for i, conn := range conns {
			got := make([]byte, 8)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != fmt.Sprintf("%8d", i) {
				t.Fatalf("connection %d read %q, %v", i, got, err)
			}
			conn.Close()
		}
		l.Close()
		<-served
	})
}

func TestAddresses(t *testing.T) {
	forEachCarrier(t, func(t *testing.T, c carrier) {
		l := c.listen(t, nil)
		target := c.target(l)
		client := mustDial(t, target, nil)
		server := mustAccept(t, l)
		if client.RemoteAddr() != net.Addr(target) {
			t.Errorf("client's RemoteAddr = %v, want %v", client.RemoteAddr(), target)
		}
		if c.name != "vsock" {
			if server.LocalAddr() != l.Addr() {
				t.Errorf("server's LocalAddr = %v, want %v", server.LocalAddr(), l.Addr())
			}
			if server.RemoteAddr() != net.Addr(Addr{}) {
				t.Errorf("server's RemoteAddr = %v, want none", server.RemoteAddr())
			}
			return
		}
		if got, want := server.LocalAddr(), VsockAddr(CIDLocal, l.addr.Port); got != net.Addr(want) {
			t.Errorf("server's LocalAddr = %v, want %v", got, want)
		}
		if server.RemoteAddr() != client.LocalAddr() {
			t.Errorf("server's RemoteAddr = %v, client's LocalAddr = %v", server.RemoteAddr(), client.LocalAddr())
		}
	})
}

func TestPeer(t *testing.T) {
	forEachCarrier(t, func(t *testing.T, c carrier) {
		l := c.listen(t, nil)
		client := mustDial(t, c.target(l), nil)
		server := mustAccept(t, l)
		if c.name == "vsock" {
			from := client.local
			if want := (Peer{Network: NetworkVsock, CID: CIDLocal, Port: from.Port}); server.Peer() != want {
				t.Errorf("server's Peer = %+v, want %+v", server.Peer(), want)
			}
			if want := (Peer{Network: NetworkVsock, CID: CIDLocal, Port: l.addr.Port}); client.Peer() != want {
				t.Errorf("client's Peer = %+v, want %+v", client.Peer(), want)
			}
			return
		}
		want := Peer{Network: c.name, Port: l.addr.Port, Path: l.addr.Path}
		if runtime.GOOS == "linux" || runtime.GOOS == "darwin" {
			want.UID, want.GID, want.PID = uint32(os.Geteuid()), uint32(os.Getegid()), int32(os.Getpid())
			want.HasCreds = true
		}
		if server.Peer() != want {
			t.Errorf("server's Peer = %+v, want %+v", server.Peer(), want)
		}
		if info := server.AuthInfo().(AuthInfo); info.Peer != want {
			t.Errorf("AuthInfo has %+v, want %+v", info.Peer, want)
		}
	})
}

func TestPeerString(t *testing.T) {
	tests := []struct {
		peer Peer
		want string
	}{
		{Peer{Network: NetworkVsock, CID: 2, Port: 1023}, "vsock CID 2 port 1023"},
		{Peer{Network: NetworkUnix, UID: 1000, PID: 42, HasCreds: true}, "unix uid 1000 pid 42"},
		{Peer{Network: NetworkUnix}, "unix"},
		{Peer{Network: NetworkMux, Path: "/v", Port: 52, UID: 0, PID: 7, HasCreds: true}, "vsock-mux /v port 52 uid 0 pid 7"},
	}
	for _, tt := range tests {
		if got := tt.peer.String(); got != tt.want {
			t.Errorf("String = %q, want %q", got, tt.want)
		}
	}
}

// TestOptionsOfOtherSockets shows that vsock options on a Unix socket are an
// error that says so.
func TestOptionsOfOtherSockets(t *testing.T) {
	client, _ := carriers[0].pair(t)
	if _, err := client.BufferSizes(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("BufferSizes: %v", err)
	}
	if _, err := client.SetBufferSizes(BufferSizes{Size: 4096}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SetBufferSizes: %v", err)
	}
	if _, err := client.ConnectTimeout(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("ConnectTimeout: %v", err)
	}
}

// TestRawConn: a Conn says that it is a socket, for itself alone.
func TestRawConn(t *testing.T) {
	a, b := carriers[0].pair(t)
	defer b.Close()
	if self, socket := a.RawConn(); self != net.Conn(a) || socket == nil {
		t.Errorf("RawConn = %v, %v", self, socket)
	}
	outer := struct{ *Conn }{a}
	if self, _ := outer.RawConn(); self == net.Conn(outer) {
		t.Error("what embeds a Conn passes for it")
	}
	a.Close()
}
