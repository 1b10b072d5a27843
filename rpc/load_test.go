package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

var bothDesc = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// conns returns the connections of both sides.
func (c *Client) testConn() *clientConn { return c.current.Load() }

func (s *Server) testConns() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*serverConn
	for sc := range s.natives {
		all = append(all, sc)
	}
	return all
}

// wantNothingLeft checks that no stream, credit, or reservation is left on c.
func wantNothingLeft(t testing.TB, c *conn) {
	t.Helper()
	wait.For(t, "nothing is left", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.streams) == 0 && c.recv.Held == 0 && c.assembly.used == 0 && len(c.assembly.queue) == 0
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recv.Credit+c.recv.Freed != c.recv.Size {
		t.Errorf("credit %d + %d of %d", c.recv.Credit, c.recv.Freed, c.recv.Size)
	}
	if n := c.inFlight.Load(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

// TestStreamsInBursts opens streams and resets them, in bursts and at every stage
// of their life; nothing may be left behind.
func TestStreamsInBursts(t *testing.T) {
	total := 30_000
	if testing.Short() {
		total = 3_000
	}
	if os.Getenv("VSOCKRPC_STRESS") != "" {
		total = 300_000
	}
	e := &echo{both: func(st grpc.ServerStream) error {
		for {
			m := new(wrapperspb.BytesValue)
			if err := st.RecvMsg(m); err != nil {
				return nil
			}
			if err := st.SendMsg(m); err != nil {
				return nil
			}
		}
	}}
	s := newEchoServer(e, nil)
	c := NewClient(serveUnix(t, s), nil)
	defer c.Close()
	before := runtime.NumGoroutine()
	const burst = 100
	data := wrapperspb.Bytes(make([]byte, 2000))
	for n := 0; n < total; n += burst {
		var wg sync.WaitGroup
		for i := range burst {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				st, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				for range i % 4 {
					if err := st.SendMsg(data); err != nil {
						t.Errorf("send: %v", err)
					}
				}
				if i%3 == 0 {
					if err := st.CloseSend(); err != nil {
						t.Errorf("close: %v", err)
					}
				}
				if i%4 > 1 {
					if err := st.RecvMsg(new(wrapperspb.BytesValue)); err != nil {
						t.Errorf("receive: %v", err)
					}
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
	}
	wantNothingLeft(t, &c.testConn().conn)
	for _, sc := range s.testConns() {
		wantNothingLeft(t, &sc.conn)
		sc.mu.Lock()
		if sc.active != 0 || len(sc.pending) != 0 {
			t.Errorf("%d active, %d pending", sc.active, len(sc.pending))
		}
		sc.mu.Unlock()
	}
	if n := s.budget.held.Load(); n != 0 {
		t.Errorf("%d bytes of the budget are held", n)
	}
	wait.For(t, "goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+5 })
}

// TestStalledReader stops the reader of one stream, or of many, on either side; the
// others on the same connection go on at their rate, and memory stays within the
// windows.
func TestStalledReader(t *testing.T) {
	for _, stalls := range []int{1, 40} {
		t.Run(strconv.Itoa(stalls), func(t *testing.T) { testStalledReaders(t, stalls) })
	}
}

// stalling is a service whose streams do not read, or send without end, or echo, as
// their first message says. What does not read returns when release says so.
func stalling(release <-chan struct{}) *echo {
	return &echo{both: func(st grpc.ServerStream) error {
		var m wrapperspb.BytesValue
		if err := st.RecvMsg(&m); err != nil {
			return err
		}
		switch string(m.Value) {
		case "do not read":
			<-release
			return nil
		case "fill":
			for {
				if err := st.SendMsg(wrapperspb.Bytes(make([]byte, 10_000))); err != nil {
					return nil
				}
			}
		}
		for {
			m := new(wrapperspb.BytesValue)
			if err := st.RecvMsg(m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := st.SendMsg(m); err != nil {
				return err
			}
		}
	}}
}

// echoBeside has so many streams of c exchange messages of n bytes, some rounds long.
func echoBeside(t *testing.T, ctx context.Context, c *Client, streams, rounds, n int) {
	data := make([]byte, n)
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			st, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
			if err == nil {
				err = st.SendMsg(value("echo"))
			}
			if err != nil {
				t.Error(err)
				return
			}
			var m wrapperspb.BytesValue
			for range rounds {
				if err := st.SendMsg(wrapperspb.Bytes(data)); err != nil {
					t.Error(err)
					return
				}
				if err := st.RecvMsg(&m); err != nil || len(m.Value) != len(data) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testStalledReaders(t *testing.T, stalls int) {
	const others, rounds, size = 99, 50, 20_000
	release := make(chan struct{})
	for _, stall := range []string{"do not read", "fill"} {
		t.Run(stall, func(t *testing.T) {
			s := newEchoServer(stalling(release), nil)
			c := NewClient(serveUnix(t, s), nil)
			defer c.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var blocked sync.WaitGroup
			for range stalls {
				stalled, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
				if err != nil {
					t.Fatal(err)
				}
				if err := stalled.SendMsg(value(stall)); err != nil {
					t.Fatal(err)
				}
				if stall == "do not read" {
					blocked.Go(func() {
						for stalled.SendMsg(wrapperspb.Bytes(make([]byte, 10_000))) == nil {
						}
					})
				}
			}
			// They have filled their windows before the others begin.
			wait.For(t, "the windows are full", func() bool {
				conns := s.testConns()
				return len(conns) > 0 && c.testConn().heldBytes()+conns[0].heldBytes() > int64(stalls)*(DefaultStreamWindow-20_000)
			})
			echoBeside(t, ctx, c, others, rounds, size)
			held := c.testConn().heldBytes() + s.testConns()[0].heldBytes()
			if held > int64(stalls)*DefaultStreamWindow+others*2*wire.Cost(size) {
				t.Errorf("%d bytes are held", held)
			}
			cancel()
			blocked.Wait()
			if stall == "do not read" {
				for range stalls {
					release <- struct{}{}
				}
			}
			wantNothingLeft(t, &c.testConn().conn)
			wantNothingLeft(t, &s.testConns()[0].conn)
		})
	}
}

func (c *conn) heldBytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recv.Held
}

// TestLongMessagesBeyondTheBudget sends messages for each of which the budget has
// room in pieces, but not once more as a whole.
func TestLongMessagesBeyondTheBudget(t *testing.T) {
	for _, budget := range []int64{4<<20 + 200_000, 6 << 20, 20 << 20} {
		s := newEchoServer(nil, &ServerConfig{Budget: budget})
		c := NewClient(serveUnix(t, s), nil)
		defer c.Close()
		for i := range 20 {
			in := bytes.Repeat([]byte{byte(i), 1, 2}, 2<<20/3)
			var out wrapperspb.BytesValue
			if err := c.Invoke(t.Context(), "/test.Echo/Echo", wrapperspb.Bytes(in), &out); err != nil || !bytes.Equal(out.Value, in) {
				t.Fatalf("budget %d: %d bytes came back as %d, %v", budget, len(in), len(out.Value), err)
			}
		}
		if n := s.budget.held.Load(); n != 0 {
			t.Errorf("%d bytes of the budget are held", n)
		}
	}
}

// TestLongMessagesTakeTurns sends more and longer messages at once than the
// connection may hold.
func TestLongMessagesTakeTurns(t *testing.T) {
	s := newEchoServer(nil, &ServerConfig{ConnWindow: 2 << 20})
	c := NewClient(serveUnix(t, s), &ClientConfig{ConnWindow: 2 << 20})
	defer c.Close()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			in := make([]byte, 1<<20+i*1000)
			var out wrapperspb.BytesValue
			if err := c.Invoke(t.Context(), "/test.Echo/Echo", wrapperspb.Bytes(in), &out); err != nil || len(out.Value) != len(in) {
				t.Errorf("%d bytes came back as %d, %v", len(in), len(out.Value), err)
			}
		})
	}
	wg.Wait()
	wantNothingLeft(t, &c.testConn().conn)
	wantNothingLeft(t, &s.testConns()[0].conn)
}

// TestMixedLoad runs everything at once: short and long calls, streams, slow
// handlers, deadlines and cancellations, over connections that are raw and not.
func TestMixedLoad(t *testing.T) {
	e := &echo{unary: func(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		if len(in.Value)%17 == 3 {
			time.Sleep(3 * time.Millisecond) // longer than a handler may run inline
		}
		return in, ctx.Err()
	}}
	for _, which := range []string{"native/unix", "native/pipe", "native/tls"} {
		t.Run(which, func(t *testing.T) {
			s := NewServer(quiet(serverConfigFor(which)))
			s.RegisterService(&echoDesc, e)
			c := clientFor(t, serveFor(t, s, which), which).(*Client)
			var wg sync.WaitGroup
			var done atomic.Int64
			for range 16 {
				seed := rand.Uint64()
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, 1))
					for range 100 {
						if err := randomCall(t.Context(), c, rnd); err != nil {
							t.Errorf("seed %d: %v", seed, err)
							return
						}
						done.Add(1)
					}
				})
			}
			wg.Wait()
			wantNothingLeft(t, &c.testConn().conn)
			wantNothingLeft(t, &s.testConns()[0].conn)
			if n := s.budget.held.Load(); n != 0 {
				t.Errorf("%d bytes of the budget are held", n)
			}
		})
	}
}

func randomCall(ctx context.Context, c *Client, rnd *rand.Rand) error {
	size := 1 << rnd.IntN(18)
	size += rnd.IntN(size)
	in := make([]byte, size)
	switch rnd.IntN(6) {
	case 0:
		ctx, cancel := context.WithTimeout(ctx, time.Duration(rnd.IntN(3000))*time.Microsecond)
		defer cancel()
		err := c.Invoke(ctx, "/test.Echo/Echo", wrapperspb.Bytes(in), new(wrapperspb.BytesValue))
		if code := status.Code(err); code != codes.OK && code != codes.DeadlineExceeded {
			return err
		}
		return nil
	case 1:
		ctx, cancel := context.WithCancel(ctx)
		st, err := c.NewStream(ctx, bothDesc, "/test.Echo/Both")
		if err == nil {
			for range rnd.IntN(3) {
				// Not more than the other side takes while its echo is not read.
				_ = st.SendMsg(wrapperspb.Bytes(in[:min(size, 40_000)]))
			}
		}
		cancel()
		return err
	case 2:
		var out blob
		defer out.release()
		if err := c.Invoke(ctx, "/test.Echo/EchoBlob", &blob{data: in}, &out); err != nil || len(out.data) != size {
			return fmt.Errorf("blob of %d bytes came as %d: %w", size, len(out.data), err)
		}
		return nil
	case 3:
		st, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Echo/Down")
		if err != nil {
			return err
		}
		if err := st.SendMsg(downRequest(20, min(size, 70_000))); err != nil {
			return err
		}
		n := 0
		for {
			if err := st.RecvMsg(new(wrapperspb.BytesValue)); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
			n++
		}
		if n != 20 {
			return fmt.Errorf("%d messages, want 20", n)
		}
		return nil
	}
	var out wrapperspb.BytesValue
	if err := c.Invoke(ctx, "/test.Echo/Echo", wrapperspb.Bytes(in), &out); err != nil || len(out.Value) != size {
		return fmt.Errorf("%d bytes came as %d: %w", size, len(out.Value), err)
	}
	return nil
}
