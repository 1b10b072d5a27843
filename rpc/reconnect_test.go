package rpc

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		c := NewClient(func(context.Context) (net.Conn, error) {
			at = append(at, time.Since(start))
			return nil, errTest
		}, nil)
		defer c.Close()
		if err := c.Invoke(t.Context(), "/a/B", value(""), value("")); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "test") {
			t.Errorf("fail fast: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		err := c.Invoke(ctx, "/a/B", value(""), value(""), grpc.WaitForReady(true))
		if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "test") {
			t.Errorf("wait for ready: %v", err)
		}
		if time.Since(start) != 30*time.Second {
			t.Errorf("ended after %v", time.Since(start))
		}
		if n := len(at); n < 8 || n > 25 {
			t.Errorf("%d attempts: %v", n, at)
		}
		for i := 2; i < len(at); i++ {
			if d := at[i] - at[i-1]; d > 6*time.Second {
				t.Errorf("%v between attempts", d)
			}
		}
	})
}

// TestImpatientCallDuringConnect shows that a call whose context ends while it
// connects returns at once, and that connecting goes on without it, as long as
// another call, or nobody, has the patience.
func TestImpatientCallDuringConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEchoServer(&echo{}, nil)
		defer s.Stop()
		attempts := 0
		c := NewClient(func(ctx context.Context) (net.Conn, error) {
			attempts++
			select {
			case <-time.After(10 * time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			a, b := net.Pipe()
			go s.ServeConn(b)
			return a, nil
		}, nil)
		defer c.Close()
		start := time.Now()
		for i := 1; i <= 3; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := c.Invoke(ctx, "/test.Echo/Echo", value("x"), value(""))
			cancel()
			if status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("call %d: %v", i, err)
			}
			if d := time.Since(start); d != time.Duration(i)*time.Second {
				t.Errorf("call %d returned after %v", i, d)
			}
			if st := c.State(); st != connectivity.Connecting {
				t.Errorf("after call %d: %v", i, st)
			}
		}
		if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), value("")); err != nil {
			t.Error(err)
		}
		// One second of the first call, and ten of who went on.
		if d := time.Since(start); d != 11*time.Second || attempts != 2 {
			t.Errorf("connected after %v, in %d attempts", d, attempts)
		}
	})
}

func TestGoAwayRetriesWhatDidNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := make(chan *wirePeer, 2)
		c := NewClient(func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			peers <- &wirePeer{t, b}
			return a, nil
		}, nil)
		defer c.Close()
		got := make(chan error, 2)
		for range 2 {
			go func() {
				got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
			}()
		}
		p := <-peers
		p.greeted()
		p.want(wire.FrameOpen)
		p.want(wire.FrameOpen)
		p.hello()
		p.send(wire.AppendGoAway(nil, 1, wire.CodeNone, "moving"))
		q := <-peers
		q.greeted()
		if h, _ := q.want(wire.FrameOpen); h.Stream != 1 {
			t.Errorf("the second call is stream %d of the new connection", h.Stream)
		}
		q.hello()
		q.frame(wire.Header{Type: wire.FrameEnd, Stream: 1, Flags: wire.FlagMsg})
		if err := <-got; err != nil {
			t.Errorf("the call that was made again: %v", err)
		}
		p.frame(wire.Header{Type: wire.FrameEnd, Stream: 1, Flags: wire.FlagMsg})
		if err := <-got; err != nil {
			t.Errorf("the call that had run: %v", err)
		}
		p.wantClosed() // the client is done with it
	})
}

func TestCallThatMayHaveRunIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		var p *wirePeer
		c := NewClient(func(context.Context) (net.Conn, error) {
			a, b := net.Pipe()
			p = &wirePeer{t, b}
			dials++
			return a, nil
		}, nil)
		defer c.Close()
		got := make(chan error, 1)
		go func() {
			got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue), grpc.WaitForReady(true))
		}()
		synctest.Wait()
		p.greeted()
		p.hello()
		p.want(wire.FrameOpen)
		p.nc.Close()
		if err := <-got; status.Code(err) != codes.Unavailable || dials != 1 {
			t.Errorf("got %v after %d dials", err, dials)
		}
	})
}
