package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// cutConn closes a connection after so many bytes in one direction.
type cutConn struct {
	net.Conn
	left  *atomic.Int64
	reads bool // else writes
}

func (c cutConn) Read(p []byte) (int, error) {
	if !c.reads {
		return c.Conn.Read(p)
	}
	left := int(c.left.Load())
	if left == 0 {
		_ = c.Close()
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p[:min(len(p), left)])
	c.left.Add(-int64(n))
	return n, err
}

func (c cutConn) Write(p []byte) (int, error) {
	if c.reads {
		return c.Conn.Write(p)
	}
	left := int(c.left.Load())
	n, err := c.Conn.Write(p[:min(len(p), left)])
	c.left.Add(-int64(n))
	if n < len(p) && err == nil {
		_ = c.Close()
		err = io.ErrClosedPipe
	}
	return n, err
}

// exchange makes a unary call and a stream of a few messages, and returns how they
// ended.
func exchange(ctx context.Context, c *Client) (unary, stream error) {
	var out wrapperspb.BytesValue
	unary = c.Invoke(ctx, "/test.Echo/Echo", value("hello"), &out)
	if unary == nil && string(out.Value) != "hello" {
		unary = errors.New("a short answer as success")
	}
	st, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Echo/Both")
	if err != nil {
		return unary, err
	}
	for range 3 {
		if err := st.SendMsg(value("there")); err != nil {
			break
		}
	}
	_ = st.CloseSend()
	for n := 0; ; n++ {
		if err := st.RecvMsg(&out); errors.Is(err, io.EOF) && n == 3 {
			return unary, nil
		} else if errors.Is(err, io.EOF) {
			return unary, errors.New("a short stream as success")
		} else if err != nil {
			return unary, err
		}
	}
}

// TestCutAtEveryOffset cuts the connection after each number of bytes, in each
// direction. Calls end with Unavailable or as if nothing had happened, never with
// a short answer, and no goroutine stays behind.
func TestCutAtEveryOffset(t *testing.T) {
	for _, reads := range []bool{false, true} {
		for offset, cut := 0, true; cut; offset++ {
			synctest.Test(t, func(t *testing.T) {
				s := newEchoServer(nil, nil)
				defer s.Stop()
				first := true
				var left atomic.Int64
				left.Store(int64(offset))
				c := NewClient(func(context.Context) (net.Conn, error) {
					if !first {
						return nil, errTest
					}
					first = false
					a, b := net.Pipe()
					go s.ServeConn(b)
					return cutConn{a, &left, reads}, nil
				}, nil)
				defer c.Close()
				unary, stream := exchange(t.Context(), c)
				cut = unary != nil || stream != nil
				for _, err := range []error{unary, stream} {
					if err != nil && status.Code(err) != codes.Unavailable {
						t.Errorf("cut after %d bytes (reading: %v): %v", offset, reads, err)
					}
				}
			})
			if offset > 4000 {
				t.Fatal("the exchange never ends well")
			}
		}
	}
}
