package rpc

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// A quietUse is an honest way to use a connection that brings little.
type quietUse struct {
	name  string
	days  time.Duration
	every time.Duration // between the uses that use is called for; 0: none
	begin func(ctx context.Context, c *Client) (grpc.ClientStream, error)
	use   func(ctx context.Context, c *Client, st grpc.ClientStream) error
}

func openBoth(ctx context.Context, c *Client) (grpc.ClientStream, error) {
	return c.NewStream(ctx, bothDesc, "/test.Echo/Both")
}

func receive(st grpc.ClientStream) error { return st.RecvMsg(new(wrapperspb.BytesValue)) }

var quietUses = []quietUse{
	{name: "no call", days: 5},
	{name: "an idle stream", days: 30, begin: openBoth},
	{"a message of the server every 30 s", 30, 30 * time.Second, openBoth, func(_ context.Context, _ *Client, st grpc.ClientStream) error { return receive(st) }},
	{"a message of the client every 30 s", 5, 30 * time.Second, openBoth, func(_ context.Context, _ *Client, st grpc.ClientStream) error { return st.SendMsg(value("x")) }},
	{"a call every 10 minutes", 5, 10 * time.Minute, nil, func(ctx context.Context, c *Client, _ grpc.ClientStream) error {
		return c.Invoke(ctx, "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
	}},
	{"a cancelled call every 10 minutes", 5, 10 * time.Minute, nil, func(ctx context.Context, c *Client, _ grpc.ClientStream) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		_, err := openBoth(ctx, c)
		return err
	}},
}

// TestQuietConnectionsLast uses connections a little for up to 30 days. Those are
// 260,000 PINGs of either side, which are no flood.
func TestQuietConnectionsLast(t *testing.T) {
	for _, u := range quietUses {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel()
			e := &echo{both: func(st grpc.ServerStream) error {
				if u.name != quietUses[2].name {
					for {
						if err := st.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
							return err
						}
					}
				}
				for {
					select {
					case <-time.After(u.every):
					case <-st.Context().Done():
						return nil
					}
					if err := st.SendMsg(value("x")); err != nil {
						return err
					}
				}
			}}
			inBubble(t, e, &ServerConfig{HandlersApart: true}, func(t *testing.T, s *Server) {
				dials := 0
				c := NewClient(func(context.Context) (net.Conn, error) {
					a, b := net.Pipe()
					go s.ServeConn(b)
					dials++
					return a, nil
				}, nil)
				defer c.Close()
				start := time.Now()
				if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var st grpc.ClientStream
				var err error
				if u.begin != nil {
					if st, err = u.begin(ctx, c); err != nil {
						t.Fatal(err)
					}
				}
				for u.every > 0 && time.Since(start) < u.days*24*time.Hour {
					if err := u.use(ctx, c, st); err != nil {
						t.Fatalf("after %v: %v", time.Since(start), err)
					}
					if u.name != quietUses[2].name {
						time.Sleep(u.every)
					}
				}
				time.Sleep(u.days*24*time.Hour - time.Since(start))
				if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
					t.Errorf("at the end: %v", err)
				}
				if dials != 1 {
					t.Errorf("%d connections, want one that lasts", dials)
				}
				if st != nil && st.Context().Err() == nil {
					if err := st.CloseSend(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestFloodsDoNotHideBehindMessages: a message that is thrown away, or consumed, does
// not excuse the frames around it, from either side.
func TestFloodsDoNotHideBehindMessages(t *testing.T) {
	end := func(p *wirePeer, batch []byte) {
		t.Helper()
		go io.Copy(io.Discard, p.nc)
		for range 100 {
			if _, err := p.nc.Write(batch); err != nil {
				return
			}
		}
		t.Error("never ended")
	}
	pings := func(n int) (b []byte) {
		for range n {
			b = wire.AppendPing(b, 0, [8]byte{})
		}
		return b
	}
	late := append(wire.AppendHeader(nil, wire.Header{Type: wire.FrameData, Stream: 1, Flags: wire.FlagMsg, Length: 1}), 'x')
	t.Run("thrown away by the server", func(t *testing.T) {
		inBubble(t, nil, nil, func(t *testing.T, s *Server) {
			p := wireServer(t, s)
			p.open(1, "/test.Echo/Nope", "", 0)
			p.wantEnd(1)
			end(p, append(pings(maxIdleFrames/2), late...))
		})
	})
	t.Run("thrown away by the client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := wireClient(t, nil)
			defer c.Close()
			ctx, cancel := context.WithCancel(t.Context())
			go func() { _, _ = openBoth(ctx, c) }()
			p.greeted()
			p.want(wire.FrameOpen)
			p.hello()
			cancel()
			p.want(wire.FrameReset)
			end(p, append(pings(maxIdleFrames/2), late...))
		})
	})
	t.Run("consumed", func(t *testing.T) {
		inBubble(t, nil, nil, func(t *testing.T, s *Server) {
			p := wireServer(t, s)
			go io.Copy(io.Discard, p.nc)
			for id := range uint32(100) {
				b := append(pings(maxIdleFrames/2), openFrame(id+1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)...)
				if _, err := p.nc.Write(b); err != nil {
					return
				}
			}
			t.Error("never ended")
		})
	})
}

// TestStreamsThatAreOverFlood: what was under way when a stream ended is no flood, and
// what comes after that is.
func TestStreamsThatAreOverFlood(t *testing.T) {
	e := &echo{both: func(grpc.ServerStream) error { return nil }}
	for name, frame := range map[string][]byte{
		"messages": append(wire.AppendHeader(nil, wire.Header{Type: wire.FrameData, Stream: 1, Flags: wire.FlagMsg, Length: 1}), 'x'),
		"RESET":    wire.AppendReset(nil, 1, wire.CodeCancelled, ""),
		"CREDIT":   wire.AppendCredit(nil, 1, wire.LeastCredit),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, e, &ServerConfig{StreamWindow: wire.InitialStreamWindow}, func(t *testing.T, s *Server) {
				p := wireServer(t, s)
				p.open(1, "/test.Echo/Both", "", 0)
				p.wantEnd(1)
				go io.Copy(io.Discard, p.nc)
				const allowed = wire.InitialStreamWindow/(wire.FrameCost+1) + maxIdleFrames
				sent := 0
				for ; sent < 2*allowed; sent++ {
					if _, err := p.nc.Write(frame); err != nil {
						break
					}
				}
				if sent < wire.InitialStreamWindow/(wire.FrameCost+1) || sent > allowed+100 {
					t.Errorf("ended after %d frames, want up to %d", sent, allowed)
				}
			})
		})
	}
}

// TestRepeatedFramesFlood repeats what counts once.
func TestRepeatedFramesFlood(t *testing.T) {
	for name, frame := range map[string][]byte{
		"RESET of a handler that does not stop":       wire.AppendReset(nil, 1, wire.CodeCancelled, ""),
		"empty DATA for a handler that does not stop": wire.AppendHeader(nil, wire.Header{Type: wire.FrameData, Stream: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			e := &echo{both: func(grpc.ServerStream) error { <-release; return nil }}
			s := newEchoServer(e, nil)
			nc := mustDial(t, serveUnix(t, s))
			t.Cleanup(func() { close(release) })
			p := &wirePeer{t, nc}
			p.hello()
			p.greeted()
			p.open(1, "/test.Echo/Both", "", 0)
			p.send(wire.AppendReset(nil, 1, wire.CodeCancelled, ""))
			go func() {
				for range 2 * maxIdleFrames {
					if _, err := nc.Write(frame); err != nil {
						return
					}
				}
			}()
			if _, b := p.want(wire.FrameGoAway); wire.Code(b[7]) != wire.CodeFlood {
				t.Errorf("GOAWAY with %q", b)
			}
		})
	}
	t.Run("GOAWAY of a server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := wireClient(t, nil)
			defer c.Close()
			got := make(chan error, 1)
			go func() { got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), value("")) }()
			p.greeted()
			p.want(wire.FrameOpen)
			p.hello()
			go io.Copy(io.Discard, p.nc)
			for range 2 * maxIdleFrames {
				if _, err := p.nc.Write(wire.AppendGoAway(nil, 1, wire.CodeNone, "")); err != nil {
					break
				}
			}
			if err := <-got; status.Code(err) != codes.ResourceExhausted {
				t.Errorf("got %v", err)
			}
		})
	})
}
