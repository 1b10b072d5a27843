package rpc

import (
	"context"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// deafServer is the server of a client, played by a test, that reads no more than the
// first OPEN. Its windows have room for much.
func deafServer(t *testing.T) (*Client, *wirePeer) {
	t.Helper()
	lis, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	c := NewClient(func(context.Context) (net.Conn, error) { return net.Dial("unix", lis.Addr().String()) }, &ClientConfig{Keepalive: Keepalive{Time: -1}})
	t.Cleanup(func() { c.Close() })
	got := make(chan error, 1)
	go func() { got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), value("")) }()
	nc, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	p := &wirePeer{t, nc}
	p.greeted()
	h, _ := p.want(wire.FrameOpen)
	p.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: 8 << 20, ConnWindow: 64 << 20}))
	p.frame(wire.Header{Type: wire.FrameEnd, Flags: wire.FlagMsg, Stream: h.Stream})
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	return c, p
}

// sendMuch makes calls with long messages until the socket and what may wait for it
// are full, and returns where their errors come.
func sendMuch(t *testing.T, ctx context.Context, c *Client) (got chan error, calls int) {
	t.Helper()
	calls = 8
	got = make(chan error, calls+1)
	cc := c.testConn()
	begin := func(what string, done func() bool) {
		t.Helper()
		for range calls / 2 {
			go func() {
				got <- c.Invoke(ctx, "/test.Echo/Echo", wrapperspb.Bytes(make([]byte, 300<<10)), value(""))
			}()
		}
		wait.For(t, what, done)
	}
	begin("the writer sleeps", func() bool { asleep, _ := cc.w.Waiting(); return asleep })
	begin("payloads wait behind its batch", func() bool { _, payloads := cc.w.Waiting(); return cc.w.Full() && payloads > 0 })
	return got, calls
}

// wantAll waits for the errors of the calls of sendMuch.
func wantAll(t *testing.T, got chan error, calls int, code codes.Code) {
	t.Helper()
	late := time.After(30 * time.Second)
	for i := range calls {
		select {
		case err := <-got:
			if status.Code(err) != code {
				t.Errorf("got %v, want %v", err, code)
			}
		case <-late:
			t.Fatalf("%d of %d calls hang", calls-i, calls)
		}
	}
}

// TestCancelWithADeafPeer: calls whose payloads lie with a writer that sleeps return
// when they are cancelled, and not only when the peer reads.
func TestCancelWithADeafPeer(t *testing.T) {
	c, _ := deafServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	got, calls := sendMuch(t, ctx, c)
	cancel()
	wantAll(t, got, calls, codes.Canceled)
}

// TestCloseWithADeafPeer: so do they when the client is closed, whether their payloads
// are being written or wait, and so does a call that waits to be opened.
func TestCloseWithADeafPeer(t *testing.T) {
	for range 20 {
		c, _ := deafServer(t)
		got, calls := sendMuch(t, t.Context(), c)
		go func() { got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), value("")) }()
		cc := c.testConn()
		wait.For(t, "a new call waits for room", func() bool {
			cc.mu.Lock()
			defer cc.mu.Unlock()
			return slices.ContainsFunc(cc.roomWait, func(s *stream) bool { return !s.cl.opened })
		})
		c.Close()
		wantAll(t, got, calls+1, codes.Canceled)
	}
}

// TestClientReadsWhileItCannotWrite: a client whose server does not read takes what it
// is sent all the same.
func TestClientReadsWhileItCannotWrite(t *testing.T) {
	c, p := deafServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	st, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
	if err != nil {
		t.Fatal(err)
	}
	h, _ := p.want(wire.FrameOpen)
	got, calls := sendMuch(t, ctx, c)
	const n = 2000
	sent := make(chan error, 1)
	go func() {
		f := append(wire.AppendHeader(nil, wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg, Stream: h.Stream, Length: 3}), 0x0a, 1, 'x')
		for range n {
			if _, err := p.nc.Write(f); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i := range n {
		if err := st.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	cancel()
	wantAll(t, got, calls, codes.Canceled)
}

// TestAnswersThatWereReadAreForgotten: what counts against a client that does not read
// the answers to its frames is what it has not read.
func TestAnswersThatWereReadAreForgotten(t *testing.T) {
	inBubble(t, nil, nil, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		done := make(chan int)
		go func() {
			n := 0
			for {
				h, _, err := p.read()
				if err != nil || h.Type == wire.FrameEnd {
					done <- n
					return
				}
				if h.Type == wire.FramePing && h.Flags == wire.FlagAck {
					n++
				}
			}
		}()
		const batches, each = 2 * sock.MaxControlPending / 20 / 5000, 5000
		for range batches {
			for range each {
				p.frame(wire.Header{Type: wire.FramePing}, make([]byte, 8)...)
			}
			time.Sleep(floodTime)
		}
		p.open(1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)
		if n := <-done; n != batches*each {
			t.Errorf("%d answers, want %d", n, batches*each)
		}
	})
}

// TestEndWithinAMessage: a call whose END comes within a message does not look complete.
func TestEndWithinAMessage(t *testing.T) {
	for _, desc := range []*grpc.StreamDesc{unaryDesc, downDesc} {
		synctest.Test(t, func(t *testing.T) {
			c, p := wireClient(t, nil)
			defer c.Close()
			got := make(chan error, 1)
			go func() {
				if desc == unaryDesc {
					got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), value(""))
					return
				}
				st, err := c.NewStream(t.Context(), desc, "/test.Echo/Down")
				if err == nil {
					err = st.SendMsg(value("x"))
				}
				for err == nil {
					err = st.RecvMsg(new(wrapperspb.BytesValue))
				}
				got <- err
			}()
			p.greeted()
			h, _ := p.want(wire.FrameOpen)
			p.hello()
			p.frame(wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg, Stream: h.Stream}, 0x0a, 1, 'x')
			p.frame(wire.Header{Type: wire.FrameData, Flags: wire.FlagHead | wire.FlagMsg | wire.FlagMore, Stream: h.Stream}, 3, wire.TagLength, 1, 9, 0x0a, 7)
			p.frame(wire.Header{Type: wire.FrameEnd, Stream: h.Stream})
			if err := <-got; status.Code(err) != codes.Internal {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestSilentCallIsNotIdle: a connection with a call in flight is not idle, however
// little that says.
func TestSilentCallIsNotIdle(t *testing.T) {
	for _, which := range []string{"client", "server"} {
		t.Run(which, func(t *testing.T) {
			scfg, ccfg := &ServerConfig{}, &ClientConfig{}
			if which == "client" {
				ccfg.IdleTimeout = time.Minute
			} else {
				scfg.IdleTimeout = time.Minute
			}
			e := &echo{both: func(st grpc.ServerStream) error {
				time.Sleep(5 * time.Minute)
				return st.SendMsg(value("x"))
			}}
			inBubble(t, e, scfg, func(t *testing.T, s *Server) {
				dials := 0
				c := NewClient(func(context.Context) (net.Conn, error) {
					a, b := net.Pipe()
					go s.ServeConn(b)
					dials++
					return a, nil
				}, ccfg)
				defer c.Close()
				st, err := openBoth(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(4 * time.Minute)
				if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil || dials != 1 {
					t.Errorf("another call within the silence: %v, on connection %d", err, dials)
				}
				if err := receive(st); err != nil {
					t.Errorf("after a silence: %v", err)
				}
				if err := receive(st); err != io.EOF {
					t.Errorf("at the end: %v", err)
				}
			})
		})
	}
}
