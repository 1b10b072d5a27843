//go:build linux

package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// A peerListener accepts connections from made-up peers.
type peerListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPeerListener() *peerListener {
	return &peerListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *peerListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *peerListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *peerListener) Addr() net.Addr { return transport.UnixAddr("/made-up") }

// socketPair returns the ends of a connection that buffers, as all real ones do:
// both sides of a handshake may write at once.
func socketPair() (client, server net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, ferr := net.FileConn(f)
		f.Close()
		if ferr != nil {
			err = ferr
			continue
		}
		conns[i] = c
	}
	return conns[0], conns[1], err
}

// dial connects as a peer; nil stands for a connection that tells of none.
func (l *peerListener) dial(ctx context.Context, p *transport.Peer) (net.Conn, error) {
	client, server, err := socketPair()
	if err != nil {
		return nil, err
	}
	if p != nil {
		server = peerConn{server, *p}
	}
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type peerConn struct {
	net.Conn
	peer transport.Peer
}

func (c peerConn) AuthInfo() credentials.AuthInfo { return transport.AuthInfo{Peer: c.peer} }

// serve starts an agent on a peerListener.
func serve(t *testing.T, cfg *Config, register func(*Agent)) (*Agent, *peerListener) {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if register != nil {
		register(a)
	}
	l := newPeerListener()
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return a, l
}

// client returns a stock gRPC client that calls as a peer.
func client(t *testing.T, l *peerListener, p *transport.Peer) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///agent",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.dial(ctx, p) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// clients returns clients that call as a peer, by the name of their wire.
func clients(t *testing.T, l *peerListener, p *transport.Peer) map[string]grpc.ClientConnInterface {
	t.Helper()
	native := rpc.NewClient(func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, p) }, nil)
	t.Cleanup(func() { native.Close() })
	return map[string]grpc.ClientConnInterface{"grpc": client(t, l, p), "native": native}
}

func vsockPeer(cid, port uint32) *transport.Peer {
	return &transport.Peer{Network: transport.NetworkVsock, CID: cid, Port: port}
}

func unixPeer(uid uint32) *transport.Peer {
	return &transport.Peer{Network: transport.NetworkUnix, UID: uid, GID: uid, PID: 4242, HasCreds: true}
}

// detailOf returns the ErrorDetail of an error, or nil.
func detailOf(err error) *guestv1.ErrorDetail {
	for _, d := range status.Convert(err).Details() {
		if detail, ok := d.(*guestv1.ErrorDetail); ok {
			return detail
		}
	}
	return nil
}
