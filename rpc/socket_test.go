package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// rawUnix is a RawConn.
type rawUnix struct{ *net.UnixConn }

func (c *rawUnix) RawConn() (net.Conn, syscall.RawConn) {
	socket, _ := c.UnixConn.SyscallConn()
	return c, socket
}

var _ RawConn = (*rawUnix)(nil)

// masked is what an encrypting connection does, and counts.
type masked struct{ read, written atomic.Int64 }

func (m *masked) readFrom(c io.Reader, b []byte) (int, error) {
	n, err := c.Read(b)
	for i := range b[:n] {
		b[i] ^= 0x55
	}
	m.read.Add(int64(n))
	return n, err
}

func (m *masked) writeTo(c io.Writer, b []byte) (int, error) {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= 0x55
	}
	m.written.Add(int64(len(b)))
	return c.Write(out)
}

type (
	maskedUnix struct {
		*net.UnixConn
		m *masked
	}
	maskedTCP struct {
		*net.TCPConn
		m *masked
	}
	maskedRaw struct {
		*rawUnix
		m *masked
	}
	maskedConn struct {
		net.Conn
		m *masked
	}
)

func (c *maskedUnix) Read(b []byte) (int, error)  { return c.m.readFrom(c.UnixConn, b) }
func (c *maskedUnix) Write(b []byte) (int, error) { return c.m.writeTo(c.UnixConn, b) }
func (c maskedTCP) Read(b []byte) (int, error)    { return c.m.readFrom(c.TCPConn, b) }
func (c maskedTCP) Write(b []byte) (int, error)   { return c.m.writeTo(c.TCPConn, b) }
func (c maskedRaw) Read(b []byte) (int, error)    { return c.m.readFrom(c.rawUnix, b) }
func (c maskedRaw) Write(b []byte) (int, error)   { return c.m.writeTo(c.rawUnix, b) }
func (c maskedConn) Read(b []byte) (int, error)   { return c.m.readFrom(c.Conn, b) }
func (c maskedConn) Write(b []byte) (int, error)  { return c.m.writeTo(c.Conn, b) }

// connected returns the two ends of a connection over a network.
func connected(t *testing.T, network string) (a, b net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	lis, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if a, err = net.Dial(network, lis.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = lis.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// onConn serves an echo server on one end of a connection, and returns a client on
// the other.
func onConn(t *testing.T, e *echo, scfg *ServerConfig, ccfg *ClientConfig, client, server net.Conn) *Client {
	t.Helper()
	s := newEchoServer(e, scfg)
	t.Cleanup(s.Stop)
	go s.ServeConn(server)
	c := NewClient(func(context.Context) (net.Conn, error) { return client, nil }, ccfg)
	t.Cleanup(func() { c.Close() })
	return c
}

// TestEmbeddingKeepsReadAndWrite: a type that embeds a socket and has a Read and a Write
// of its own is used by them, so that no byte gets past an encrypting connection.
func TestEmbeddingKeepsReadAndWrite(t *testing.T) {
	for name, tt := range map[string]struct {
		network string
		wrap    func(nc net.Conn, m *masked) net.Conn
	}{
		"*net.UnixConn":       {"unix", func(nc net.Conn, m *masked) net.Conn { return &maskedUnix{nc.(*net.UnixConn), m} }},
		"*net.TCPConn":        {"tcp", func(nc net.Conn, m *masked) net.Conn { return maskedTCP{nc.(*net.TCPConn), m} }},
		"RawConn":             {"unix", func(nc net.Conn, m *masked) net.Conn { return &maskedRaw{&rawUnix{nc.(*net.UnixConn)}, m} }},
		"RawConn, by value":   {"unix", func(nc net.Conn, m *masked) net.Conn { return maskedRaw{&rawUnix{nc.(*net.UnixConn)}, m} }},
		"net.Conn":            {"unix", func(nc net.Conn, m *masked) net.Conn { return maskedConn{nc, m} }},
		"net.Conn, a RawConn": {"unix", func(nc net.Conn, m *masked) net.Conn { return maskedConn{&rawUnix{nc.(*net.UnixConn)}, m} }},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := connected(t, tt.network)
			var client, server masked
			c := onConn(t, nil, nil, nil, tt.wrap(a, &client), tt.wrap(b, &server))
			in := string(bytes.Repeat([]byte("x"), 100<<10))
			for range 20 {
				if out, err := call(t, c, in); err != nil || out != in {
					t.Fatalf("%d bytes, %v", len(out), err)
				}
			}
			for side, n := range map[string]int64{"the client read": client.read.Load(), "the client wrote": client.written.Load(),
				"the server read": server.read.Load(), "the server wrote": server.written.Load()} {
				if n < 20*int64(len(in)) {
					t.Errorf("%s %d bytes, of %d", side, n, 20*len(in))
				}
			}
		})
	}
}

// deaf is a connection whose deadlines do nothing, or fail.
type deaf struct {
	net.Conn
	err error
}

func (c deaf) SetDeadline(time.Time) error      { return c.err }
func (c deaf) SetReadDeadline(time.Time) error  { return c.err }
func (c deaf) SetWriteDeadline(time.Time) error { return c.err }

// TestConnectionsWithoutDeadlines ends calls that wait, on connections that no
// deadline ends.
func TestConnectionsWithoutDeadlines(t *testing.T) {
	stls, ctls := testTLS()
	for name, tt := range map[string]struct {
		err  error
		tls  bool
		pipe bool
	}{
		"do nothing":            {},
		"fail":                  {err: os.ErrNoDeadline},
		"do nothing, below TLS": {tls: true},
		"fail, below TLS":       {tls: true, err: os.ErrNoDeadline},
		"do nothing, pipe":      {pipe: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			if !tt.pipe {
				a, b = connected(t, "unix")
			}
			release := make(chan struct{})
			e := &echo{unary: func(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
				if string(in.Value) == "wait" {
					<-release
				}
				return in, nil
			}}
			scfg, ccfg := &ServerConfig{}, &ClientConfig{}
			if tt.tls {
				scfg.TLS, ccfg.TLS = stls, ctls
			}
			c := onConn(t, e, scfg, ccfg, deaf{a, tt.err}, deaf{b, tt.err})
			defer close(release)
			for range 20 {
				if out, err := call(t, c, "x"); err != nil || out != "x" {
					t.Fatalf("%q, %v", out, err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				ended <- c.Invoke(ctx, "/test.Echo/Echo", value("wait"), new(wrapperspb.BytesValue))
			}()
			st, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- st.RecvMsg(new(wrapperspb.BytesValue)) }()
			cancel()
			for range 2 {
				select {
				case err := <-ended:
					if status.Code(err) != codes.Canceled {
						t.Errorf("the call ended with %v", err)
					}
				case <-time.After(30 * time.Second):
					t.Fatal("a call does not end with its context")
				}
			}
		})
	}
}

// TestHandshakeWithoutDeadlines: a client that says nothing is closed, although no
// deadline ends the server's read.
func TestHandshakeWithoutDeadlines(t *testing.T) {
	for name, err := range map[string]error{"do nothing": nil, "fail": os.ErrNoDeadline} {
		for _, cfg := range []*ServerConfig{{}, serverConfigFor("native/tls")} {
			cfg.HandshakeTimeout = 10 * time.Millisecond
			a, b := connected(t, "unix")
			s := newEchoServer(nil, cfg)
			done := make(chan struct{})
			go func() { s.ServeConn(deaf{b, err}); close(done) }()
			_ = a.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("deadlines that %s, TLS %v: %v", name, cfg.TLS != nil, err)
			}
			a.Close()
			<-done
			s.Stop()
		}
	}
}

// TestServerStreamWithoutDeadlines: the handler of a stream, the only call of its
// connection, ends with its call's context.
func TestServerStreamWithoutDeadlines(t *testing.T) {
	ended := make(chan error, 1)
	e := &echo{both: func(st grpc.ServerStream) error {
		for {
			var m wrapperspb.BytesValue
			if err := st.RecvMsg(&m); err != nil {
				ended <- err
				return err
			}
			if err := st.SendMsg(&m); err != nil {
				return err
			}
		}
	}}
	a, b := connected(t, "unix")
	c := onConn(t, e, nil, nil, a, deaf{b, nil})
	ctx, cancel := context.WithCancel(t.Context())
	st, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
	if err != nil {
		t.Fatal(err)
	}
	for range 10 * soleBatches {
		if err := st.SendMsg(value("x")); err != nil {
			t.Fatal(err)
		}
		if err := st.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	select {
	case err := <-ended:
		if status.Code(err) != codes.Canceled {
			t.Errorf("the handler ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the handler does not end")
	}
}
