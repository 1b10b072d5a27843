package rpc

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// friend is the AuthInfo of a client that is known.
type friend struct{ credentials.CommonAuthInfo }

func (friend) AuthType() string { return "friend" }

// friendListener accepts connections of clients that are known.
type friendListener struct{ net.Listener }

func (l friendListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return friendConn{nc.(*net.UnixConn)}, nil
}

type friendConn struct{ *net.UnixConn }

func (friendConn) AuthInfo() credentials.AuthInfo { return friend{} }

// serveStrangers serves a server that knows friends alone, and returns how those
// and strangers reach it.
func serveStrangers(t *testing.T, cfg *ServerConfig) (friends, strangers dialFunc) {
	cfg = quiet(cfg)
	cfg.Known = func(info credentials.AuthInfo) bool {
		_, ok := info.(friend)
		return ok
	}
	e := &echo{both: func(st grpc.ServerStream) error {
		<-st.Context().Done()
		return st.Context().Err()
	}}
	s := newEchoServer(e, cfg)
	return serveUnix(t, friendServer{s}), serveUnix(t, s)
}

type friendServer struct{ *Server }

func (s friendServer) Serve(l net.Listener) error { return s.Server.Serve(friendListener{l}) }

func mustDial(t *testing.T, dial dialFunc) net.Conn {
	t.Helper()
	nc, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(time.Minute))
	return nc
}

// TestStrangersGiveWay: whatever strangers do, those who are known get through.
func TestStrangersGiveWay(t *testing.T) {
	const handshakes, connections = 4, 20
	stages := map[string]string{
		"silent":     "",
		"in magic":   wire.Magic[:5],
		"in preface": http2Preface[:20],
		"native":     string(wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow})),
		"http2":      http2Preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	}
	for name, begin := range stages {
		t.Run(name, func(t *testing.T) {
			friends, strangers := serveStrangers(t, &ServerConfig{MaxHandshakes: handshakes, MaxConnections: connections})
			// One that is known begins, and takes its time.
			slow := &wirePeer{t, mustDial(t, friends)}
			slow.send([]byte(wire.Magic[:3]))
			for range 3 * connections {
				nc := mustDial(t, strangers)
				// It may be closed already.
				_, _ = nc.Write([]byte(begin))
			}
			slow.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow})[3:])
			slow.greeted()
			for _, which := range []string{"native/unix", "http2/unix"} {
				cc := clientFor(t, friends, which)
				if err := cc.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue), grpc.WaitForReady(true)); err != nil {
					t.Errorf("%s: %v", which, err)
				}
			}
		})
	}
}

// TestMaxStrangers: of strangers past their handshake the oldest gives way, and is
// told why.
func TestMaxStrangers(t *testing.T) {
	friends, strangers := serveStrangers(t, nil)
	first := &wirePeer{t, mustDial(t, strangers)}
	first.hello()
	first.greeted()
	stock := mustDial(t, strangers)
	if _, err := stock.Write([]byte(http2Preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		t.Fatal(err)
	}
	if _, err := stock.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for range MaxStrangers {
		p := &wirePeer{t, mustDial(t, strangers)}
		p.hello()
		p.greeted()
	}
	if _, b := first.want(wire.FrameGoAway); len(b) < 8 || b[7] != byte(wire.CodeResource) || !strings.Contains(string(b[8:]), "does not know") {
		t.Errorf("GOAWAY %q", b)
	}
	first.wantClosed()
	buf := make([]byte, 4096)
	for {
		if _, err := stock.Read(buf); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Error("the second oldest is not closed")
			}
			break
		}
	}
	cc := clientFor(t, friends, "native/unix")
	if err := cc.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
		t.Error(err)
	}
}

// TestStrangerSizes: what a stranger may send at a time is less than what others
// may.
func TestStrangerSizes(t *testing.T) {
	friends, strangers := serveStrangers(t, nil)
	for _, which := range []string{"native/unix", "http2/unix"} {
		big := wrapperspb.Bytes(make([]byte, MaxStrangerRecvSize+1))
		cc := clientFor(t, strangers, which)
		if err := cc.Invoke(t.Context(), "/test.Echo/Echo", big, new(wrapperspb.BytesValue)); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: a stranger: %v", which, err)
		}
		if err := cc.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
			t.Errorf("%s: a stranger: %v", which, err)
		}
		if err := clientFor(t, friends, which).Invoke(t.Context(), "/test.Echo/Echo", big, new(wrapperspb.BytesValue)); err != nil {
			t.Errorf("%s: a friend: %v", which, err)
		}
	}
}

// TestStrangerStreams: more calls of a stranger wait, on its own side.
func TestStrangerStreams(t *testing.T) {
	_, strangers := serveStrangers(t, nil)
	for _, which := range []string{"native/unix", "http2/unix"} {
		ctx, cancel := context.WithCancel(t.Context())
		cc := clientFor(t, strangers, which)
		if err := cc.Invoke(ctx, "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
			t.Fatal(err) // the limit is known now
		}
		for range MaxStrangerStreams {
			if _, err := cc.NewStream(ctx, bothDesc, "/test.Echo/Both"); err != nil {
				t.Fatal(err)
			}
		}
		late, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		err := cc.Invoke(late, "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s: one more call: %v", which, err)
		}
		stop()
		cancel()
	}
}

// TestStrangerBudget: messages that strangers begin and do not end take nothing
// from others.
func TestStrangerBudget(t *testing.T) {
	friends, strangers := serveStrangers(t, &ServerConfig{Budget: 1200 << 10})
	resets := 0
	for range 12 {
		p := &wirePeer{t, mustDial(t, strangers)}
		p.hello()
		p.greeted()
		for id := uint32(1); id <= MaxStrangerStreams; id++ {
			p.open(id, "/test.Echo/Echo", "", 0)
			h := wire.Header{Type: wire.FrameData, Flags: wire.FlagHead | wire.FlagMsg | wire.FlagMore, Stream: id}
			p.frame(h, pieceOf(MaxStrangerRecvSize)...)
		}
		p.frame(wire.Header{Type: wire.FramePing}, make([]byte, 8)...)
		for {
			h, _ := p.next()
			if h.Type == wire.FrameReset {
				resets++
			}
			if h.Type == wire.FramePing {
				break
			}
		}
	}
	if resets == 0 {
		t.Error("strangers have not reached their budget")
	}
	c := NewClient(friends, nil)
	defer c.Close()
	for i := range 4 {
		if err := c.Invoke(t.Context(), "/test.Echo/Echo", wrapperspb.Bytes(make([]byte, 200<<10)), new(wrapperspb.BytesValue)); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

// pieceOf is the payload of the first piece of a message of n bytes, which lacks
// its last byte.
func pieceOf(n int) []byte {
	item := wire.AppendUintItem(nil, wire.TagLength, uint64(n))
	return append(append([]byte{byte(len(item))}, item...), make([]byte, n-1)...)
}

func TestSeldom(t *testing.T) {
	var l seldom
	if _, ok := l.next(); !ok {
		t.Error("the first is not logged")
	}
	for range 5 {
		if _, ok := l.next(); ok {
			t.Error("logged at once again")
		}
	}
	l.last = l.last.Add(-logInterval)
	if n, ok := l.next(); !ok || n != 5 {
		t.Errorf("later: %d, %v", n, ok)
	}
}
