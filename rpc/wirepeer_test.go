package rpc

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// wirePeer is the other side of a connection, played by a test frame by frame.
type wirePeer struct {
	t  testing.TB
	nc net.Conn
}

// wireServer starts s on one end of a pipe and returns the client's end, with its
// preface sent and the server's read.
func wireServer(t testing.TB, s *Server) *wirePeer {
	a, b := net.Pipe()
	go s.ServeConn(b)
	p := &wirePeer{t, a}
	p.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow}))
	p.greeted()
	return p
}

// wireClient returns a client whose server the test plays, after the client's
// preface, which comes with the first call.
func wireClient(t testing.TB, cfg *ClientConfig) (*Client, *wirePeer) {
	a, b := net.Pipe()
	c := NewClient(func(context.Context) (net.Conn, error) { return a, nil }, cfg)
	return c, &wirePeer{t, b}
}

func (p *wirePeer) send(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

func (p *wirePeer) frame(h wire.Header, payload ...byte) {
	p.t.Helper()
	h.Length = uint32(len(payload))
	p.send(append(wire.AppendHeader(nil, h), payload...))
}

// greeted reads magic and HELLO.
func (p *wirePeer) greeted() {
	p.t.Helper()
	b := make([]byte, len(wire.Magic))
	if _, err := io.ReadFull(p.nc, b); err != nil || string(b) != wire.Magic {
		p.t.Fatalf("preface %q, %v", b, err)
	}
	if h, _ := p.next(); h.Type != wire.FrameHello {
		p.t.Fatalf("%v, want HELLO", h.Type)
	}
}

// hello sends magic and HELLO.
func (p *wirePeer) hello() {
	p.t.Helper()
	p.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow}))
}

// read returns the next frame, or an error.
func (p *wirePeer) read() (wire.Header, []byte, error) {
	var b [wire.HeaderLen]byte
	if _, err := io.ReadFull(p.nc, b[:]); err != nil {
		return wire.Header{}, nil, err
	}
	h := wire.ParseHeader(b[:])
	if err := h.Check(); err != nil {
		return h, nil, err
	}
	payload := make([]byte, h.Length)
	_, err := io.ReadFull(p.nc, payload)
	return h, payload, err
}

func (p *wirePeer) next() (wire.Header, []byte) {
	p.t.Helper()
	h, b, err := p.read()
	if err != nil {
		p.t.Fatalf("read: %v", err)
	}
	return h, b
}

// want reads frames until one of that type, and returns it.
func (p *wirePeer) want(typ wire.FrameType) (wire.Header, []byte) {
	p.t.Helper()
	for {
		if h, b := p.next(); h.Type == typ {
			return h, b
		}
	}
}

// wantEnd reads the END of a stream and returns its status code.
func (p *wirePeer) wantEnd(stream uint32) codes.Code {
	p.t.Helper()
	h, b := p.want(wire.FrameEnd)
	if h.Stream != stream {
		p.t.Fatalf("END of stream %d, want %d", h.Stream, stream)
	}
	head, _, err := wire.SplitHead(h, b)
	if err != nil {
		p.t.Fatal(err)
	}
	e, err := wire.ParseEnd(head)
	if err != nil {
		p.t.Fatal(err)
	}
	return e.Code
}

// wantClosed reads until the connection ends.
func (p *wirePeer) wantClosed() {
	p.t.Helper()
	for {
		if _, _, err := p.read(); err != nil {
			return
		}
	}
}

// open sends an OPEN with a message for the method.
func (p *wirePeer) open(stream uint32, method, msg string, flags uint8) {
	p.t.Helper()
	p.send(openFrame(stream, method, msg, flags))
}

func openFrame(stream uint32, method, msg string, flags uint8) []byte {
	f := sock.Frame{Header: wire.Header{Type: wire.FrameOpen, Stream: stream, Flags: wire.FlagHead | flags}, Head: wire.AppendItem(nil, wire.TagMethod, method)}
	if flags&wire.FlagMsg != 0 {
		f.Msg, _ = proto.Marshal(value(msg))
	}
	return f.AppendTo(nil)
}

func newEchoServer(e *echo, cfg *ServerConfig) *Server {
	s := NewServer(quiet(cfg))
	s.RegisterService(&echoDesc, e)
	return s
}

// inBubble runs f with a server in a bubble of fake time, and stops the server at
// its end. A goroutine that is left over fails the test.
func inBubble(t *testing.T, e *echo, cfg *ServerConfig, f func(t *testing.T, s *Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newEchoServer(e, cfg)
		defer s.Stop()
		f(t, s)
	})
}
