package rpc

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// The bugs that other multiplexers had, and the test of each:
//
//	an unsolicited reply stalls the read loop      TestUnsolicitedFramesStallNobody, FuzzServerConn, FuzzClientConn
//	discarded payload returns no credit            TestDiscardedBytesReturnTheirCredit, TestFlow
//	a length is truncated to 32 bits               TestLengthArithmetic
//	a loop over a closed queue spins               TestCloseDuringEveryBlockingOperation
//	a refused stream stays in the table            TestRefusedStreamsLeaveNothing
//	a stream is visible before it is initialised,
//	or Close works but once                        TestOpenWhileClosing, TestCloseFromEverywhere
//	the peer's text reaches a terminal             TestVisible in cmd/host-ctl: here it is data
//	a window overflows, or is sent beyond          TestConnectionErrors, TestOverSendEndsTheConnection, TestLengthArithmetic
//	one full stream blocks the connection          TestStalledReader
//	Close waits for loops that wait for it         TestCloseFromEverywhere
//	a handshake reads on into what follows         TestHandshakeTakesNoMoreThanItsOwn

// TestUnsolicitedFramesStallNobody answers what the client never asked, between
// the answers that it waits for.
func TestUnsolicitedFramesStallNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := wireClient(t, nil)
		defer c.Close()
		const calls = 20
		answered := make(chan error, calls)
		invoke := func() {
			answered <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
		}
		go invoke()
		p.greeted()
		first, _ := p.want(wire.FrameOpen)
		p.hello()
		for id := first.Stream; ; {
			// Answers to pings that were never sent, credit that nobody lacks,
			// and a word for the stream that has just ended.
			for i := range byte(5) {
				p.send(wire.AppendPing(nil, wire.FlagAck, [8]byte{i}))
				p.send(wire.AppendCredit(nil, 0, 100))
			}
			p.frame(wire.Header{Type: wire.FrameEnd, Stream: id, Flags: wire.FlagMsg})
			if err := <-answered; err != nil {
				t.Fatalf("call %d: %v", id, err)
			}
			p.send(wire.AppendReset(nil, id, wire.CodeCancelled, "too late"))
			if id == first.Stream+calls-1 {
				return
			}
			go invoke()
			h, _ := p.want(wire.FrameOpen)
			id = h.Stream
		}
	})
}

// blocked is a way to wait for the other side for ever.
type blocked struct {
	name string
	cfg  *ServerConfig
	wait func(context.Context, *Client) error
}

func blockedOperations() []blocked {
	stream := func(ctx context.Context, c *Client) grpc.ClientStream {
		st, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
		if err != nil {
			panic(err)
		}
		return st
	}
	return []blocked{
		{"an answer", nil, func(ctx context.Context, c *Client) error {
			return c.Invoke(ctx, "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
		}},
		{"a message", nil, func(ctx context.Context, c *Client) error {
			return stream(ctx, c).RecvMsg(new(wrapperspb.BytesValue))
		}},
		{"a header", nil, func(ctx context.Context, c *Client) error {
			st := stream(ctx, c)
			if _, err := st.Header(); err != nil {
				return err
			}
			return st.RecvMsg(new(wrapperspb.BytesValue))
		}},
		{"credit", nil, func(ctx context.Context, c *Client) error {
			st := stream(ctx, c)
			for {
				if err := st.SendMsg(wrapperspb.Bytes(make([]byte, 64<<10))); err == io.EOF {
					return st.RecvMsg(new(wrapperspb.BytesValue))
				} else if err != nil {
					return err
				}
			}
		}},
		{"a place among the streams", &ServerConfig{MaxConcurrentStreams: 1}, func(ctx context.Context, c *Client) error {
			stream(ctx, c)
			return c.Invoke(ctx, "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
		}},
	}
}

// ofAnEnd reports whether err is what a call gets whose connection or client has
// ended.
func ofAnEnd(err error) bool {
	code := status.Code(err)
	return code == codes.Canceled || code == codes.Unavailable
}

// TestCloseDuringEveryBlockingOperation ends the connection in every way while
// somebody waits. The wait ends with a code, and then every goroutine rests: one
// that spins would keep synctest.Wait from returning.
func TestCloseDuringEveryBlockingOperation(t *testing.T) {
	ends := map[string]func(*Client, *Server, net.Conn){
		"the client is closed":  func(c *Client, _ *Server, _ net.Conn) { c.Close() },
		"the server is stopped": func(_ *Client, s *Server, _ net.Conn) { go s.Stop() },
		"the connection breaks": func(_ *Client, _ *Server, nc net.Conn) { nc.Close() },
	}
	for _, op := range blockedOperations() {
		for name, end := range ends {
			t.Run(op.name+"/"+name, func(t *testing.T) {
				e := &echo{
					unary: func(ctx context.Context, _ *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
						<-ctx.Done()
						return nil, ctx.Err()
					},
					both: func(st grpc.ServerStream) error { <-st.Context().Done(); return nil },
				}
				inBubble(t, e, op.cfg, func(t *testing.T, s *Server) {
					a, b := net.Pipe()
					go s.ServeConn(b)
					var once sync.Once
					c := NewClient(func(ctx context.Context) (net.Conn, error) {
						var nc net.Conn
						once.Do(func() { nc = a })
						if nc == nil {
							<-ctx.Done()
							return nil, ctx.Err()
						}
						return nc, nil
					}, nil)
					defer c.Close()
					ended := make(chan error, 1)
					go func() { ended <- op.wait(t.Context(), c) }()
					synctest.Wait()
					select {
					case err := <-ended:
						t.Fatalf("it does not wait: %v", err)
					default:
					}
					end(c, s, a)
					err := <-ended
					if !ofAnEnd(err) {
						t.Errorf("it ended with %v", err)
					}
					if name == "the client is closed" && status.Code(err) != codes.Canceled {
						t.Errorf("the client was closed, and it ended with %v", err)
					}
					synctest.Wait()
				})
			})
		}
	}
}

// TestCloseFromEverywhere closes both ends at once, from a handler and from
// outside, twice. A deadlock would end the bubble.
func TestCloseFromEverywhere(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			var s *Server
			var c *Client
			var closers sync.WaitGroup
			e := &echo{unary: func(ctx context.Context, _ *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
				closers.Go(s.Stop) // which waits for this handler
				closers.Go(s.Stop)
				closers.Go(s.GracefulStop)
				c.Close()
				c.Close()
				<-ctx.Done()
				return value("late"), nil
			}}
			s = newEchoServer(e, nil)
			c = NewClient(func(context.Context) (net.Conn, error) {
				a, b := net.Pipe()
				go s.ServeConn(b)
				return a, nil
			}, nil)
			err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
			if !ofAnEnd(err) {
				t.Errorf("the call: %v", err)
			}
			closers.Wait()
			if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); status.Code(err) != codes.Canceled {
				t.Errorf("a call of a closed client: %v", err)
			}
		})
	}
}

// TestOpenWhileClosing opens streams while the connection is torn down, so that
// each meets a connection in some state of that. With -race it shows that none is
// used before it is whole.
func TestOpenWhileClosing(t *testing.T) {
	s := newEchoServer(nil, nil)
	dial := serveUnix(t, s)
	for range 30 {
		c := NewClient(dial, nil)
		if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		var openers sync.WaitGroup
		for range 8 {
			openers.Go(func() {
				for {
					st, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
					if err == nil {
						err = st.SendMsg(value("x"))
					}
					if err == io.EOF {
						err = st.RecvMsg(new(wrapperspb.BytesValue))
					}
					if err == nil {
						continue
					}
					if !ofAnEnd(err) {
						t.Errorf("open: %v", err)
					}
					return
				}
			})
		}
		c.Close()
		openers.Wait()
		cancel()
	}
	wait.For(t, "no connection is left", func() bool { return len(s.testConns()) == 0 })
}

// TestHandshakeTakesNoMoreThanItsOwn sends the preface and calls in one write,
// and byte by byte: what is read beyond the preface is not lost.
func TestHandshakeTakesNoMoreThanItsOwn(t *testing.T) {
	first := wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow})
	for id := range uint32(3) {
		head := wire.AppendItem(nil, wire.TagMethod, "/test.Echo/Echo")
		h := wire.Header{Type: wire.FrameOpen, Stream: id + 1, Flags: wire.FlagHead | wire.FlagMsg | wire.FlagClose, Length: uint32(len(head) + 1)}
		first = append(append(wire.AppendHeader(first, h), byte(len(head))), head...)
	}
	for name, size := range map[string]int{"one write": len(first), "byte by byte": 1, "seven bytes": 7} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, nil, func(t *testing.T, s *Server) {
				a, b := net.Pipe()
				defer a.Close()
				go s.ServeConn(b)
				go func() {
					for rest := first; len(rest) > 0; {
						n := min(size, len(rest))
						if _, err := a.Write(rest[:n]); err != nil {
							t.Errorf("write: %v", err)
							return
						}
						rest = rest[n:]
					}
				}()
				p := &wirePeer{t, a}
				p.greeted()
				ended := make(map[uint32]bool)
				for range 3 {
					h, _ := p.want(wire.FrameEnd)
					ended[h.Stream] = true
				}
				if !ended[1] || !ended[2] || !ended[3] {
					t.Errorf("answers to %v, want 1, 2 and 3", ended)
				}
			})
		})
	}
}
