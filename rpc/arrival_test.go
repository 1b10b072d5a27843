package rpc

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// namedPeer is the AuthInfo of a peer.
type namedPeer struct {
	credentials.CommonAuthInfo
	name string
}

func (namedPeer) AuthType() string { return "named" }

type namedConn struct {
	net.Conn
	name string
}

func (c namedConn) AuthInfo() credentials.AuthInfo { return namedPeer{name: c.name} }

// TestFloodPushesItselfOut: a peer with many handshakes pushes out its own, and
// those that say nothing do not push out those that have begun to speak.
func TestFloodPushesItselfOut(t *testing.T) {
	cfg := &ServerConfig{
		MaxHandshakes: 8,
		Known:         func(credentials.AuthInfo) bool { return false },
		Peer:          func(info credentials.AuthInfo) string { return info.(namedPeer).name },
	}
	inBubble(t, nil, cfg, func(t *testing.T, s *Server) {
		connect := func(name, first string) *wirePeer {
			a, b := net.Pipe()
			go s.ServeConn(namedConn{b, name})
			if first != "" {
				_, _ = a.Write([]byte(first))
			}
			synctest.Wait()
			return &wirePeer{t, a}
		}
		quietOne := connect("honest", "")
		begun := connect("flood", wire.Magic[:3]) // of the same peer as the flood
		for range 100 {
			connect("flood", "")
		}
		spoken := connect("honest", wire.Magic[:3])
		for range 100 {
			connect("flood", wire.Magic[:1])
		}
		last := connect("flood", "")
		whole := wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow})
		quietOne.send(whole)
		quietOne.greeted()
		spoken.send(whole[3:])
		spoken.greeted()
		last.send(whole)
		last.greeted()
		begun.wantClosed() // by what has spoken since
		s.mu.Lock()
		n, peers := len(s.early), len(s.peers)
		s.mu.Unlock()
		if n > 8 || peers > 2 {
			t.Errorf("%d handshakes of %d peers are left", n, peers)
		}
	})
}

// TestSilenceDoesNotPushOut: a flood of silent connections leaves a handshake that
// has begun, though it is of the same peer.
func TestSilenceDoesNotPushOut(t *testing.T) {
	inBubble(t, nil, &ServerConfig{MaxHandshakes: 4, Known: func(credentials.AuthInfo) bool { return false }}, func(t *testing.T, s *Server) {
		connect := func() *wirePeer {
			a, b := net.Pipe()
			go s.ServeConn(b)
			synctest.Wait()
			return &wirePeer{t, a}
		}
		whole := wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow})
		begun := connect()
		begun.send(whole[:3])
		for range 100 {
			connect()
		}
		begun.send(whole[3:])
		begun.greeted()
	})
}

// TestAdmit: a connection that is not let in is told so, one that was let in can be
// ended, and who has let it in learns of its end, once.
func TestAdmit(t *testing.T) {
	ends, gone := make(chan func(), 3), make(chan bool, 3)
	var n atomic.Int32
	cfg := quiet(&ServerConfig{Admit: func(_ credentials.AuthInfo, end func()) func() {
		if n.Add(1) == 3 {
			return nil
		}
		ends <- end
		return func() { gone <- true }
	}})
	dial := serveUnix(t, newEchoServer(&echo{}, cfg))
	connect := func() *wirePeer {
		p := &wirePeer{t, mustDial(t, dial)}
		p.hello()
		p.greeted()
		return p
	}
	wantEnd := func(p *wirePeer, why string) {
		t.Helper()
		if _, b := p.want(wire.FrameGoAway); len(b) < 8 || b[7] != byte(wire.CodeResource) || !strings.Contains(string(b[8:]), why) {
			t.Errorf("GOAWAY %q", b)
		}
		p.wantClosed()
	}
	first, second := connect(), connect()
	wantEnd(connect(), "too many connections of this client already")
	end := <-ends
	end()
	end()
	wantEnd(first, "needs the place")
	<-gone
	second.open(1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)
	if c := second.wantEnd(1); c != codes.OK {
		t.Errorf("got %v", c)
	}
	if len(gone) != 0 {
		t.Error("another is gone")
	}
	// The same over HTTP/2.
	n.Store(0)
	cc := clientFor(t, dial, "http2/unix")
	call := func() error {
		return cc.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
	}
	if err := call(); err != nil {
		t.Error(err)
	}
	<-ends // of the second
	(<-ends)()
	<-gone
	n.Store(2)
	if err := call(); status.Code(err) != codes.Unavailable {
		t.Errorf("a connection that is not let in: %v", err)
	}
}
