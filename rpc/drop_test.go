package rpc

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// countedConn tells of its end.
type countedConn struct {
	net.Conn
	open *atomic.Int32
	done atomic.Bool
}

func (c *countedConn) Close() error {
	if c.done.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// TestDrop: connections of clients that are not known any more end, on both wires,
// and those of the others do not; a client that comes again is a stranger.
func TestDrop(t *testing.T) {
	var known atomic.Bool
	known.Store(true)
	s := NewServer(&ServerConfig{
		Known:                 func(credentials.AuthInfo) bool { return known.Load() },
		UnknownServiceHandler: func(any, grpc.ServerStream) error { return nil },
	})
	t.Cleanup(s.Stop)
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	var open atomic.Int32
	dial := func(ctx context.Context) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
		if err != nil {
			return nil, err
		}
		open.Add(1)
		return &countedConn{Conn: nc, open: &open}, nil
	}
	native := NewClient(dial, nil)
	defer native.Close()
	stock, err := grpc.NewClient("passthrough:///s", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer stock.Close()
	call := func(cc grpc.ClientConnInterface) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		st, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/a.B/C", grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = st.RecvMsg(&emptypb.Empty{})
		}
	}
	call(native)
	call(stock)
	s.Drop(func(credentials.AuthInfo) bool { return true })
	if n := s.Connections(); n != 2 || open.Load() != 2 {
		t.Errorf("%d connections, %d of the clients, after clients were dropped that are known", n, open.Load())
	}
	known.Store(false)
	s.Drop(func(credentials.AuthInfo) bool { return false })
	wait.For(t, "the end of all connections", func() bool { return open.Load() == 0 && s.Connections() == 0 })
	// They come again as strangers, whom Drop lets be.
	call(native)
	call(stock)
	s.Drop(func(credentials.AuthInfo) bool { return false })
	call(native)
	call(stock)
	if n := s.Connections(); n != 2 {
		t.Errorf("%d connections of strangers", n)
	}
}
