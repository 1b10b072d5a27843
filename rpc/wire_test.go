package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

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

func TestConnectionErrors(t *testing.T) {
	frameBytes := func(h wire.Header, payload ...byte) []byte {
		h.Length = uint32(len(payload))
		return append(wire.AppendHeader(nil, h), payload...)
	}
	echoHead := wire.AppendItem(nil, wire.TagMethod, "/test.Echo/Echo")
	for name, tc := range map[string]struct {
		code wire.Code
		b    []byte
	}{
		"DATA on a stream that was never opened": {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameData, Stream: 7, Flags: wire.FlagMsg}, 1, 2, 3)},
		"CREDIT for such a stream":               {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameCredit, Stream: 7}, 0, 0, 0, 1)},
		"RESET of such a stream":                 {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameReset, Stream: 7}, 0, 0, 0, 6)},
		"credit of nothing":                      {wire.CodeFlowControl, frameBytes(wire.Header{Type: wire.FrameCredit}, 0, 0, 0, 0)},
		"credit beyond the largest window":       {wire.CodeFlowControl, frameBytes(wire.Header{Type: wire.FrameCredit}, 0x7f, 0xff, 0xff, 0xff)},
		"END from a client":                      {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameEnd, Stream: 1})},
		"HEADER from a client":                   {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameHeader, Stream: 1})},
		"a second HELLO":                         {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameHello})},
		"an unknown type":                        {wire.CodeProtocol, frameBytes(wire.Header{Type: 0x40, Stream: 1})},
		"a method number without a name":         {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameOpen, Stream: 1, Method: 3})},
		"a method number beyond the table":       {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameOpen, Stream: 1, Method: 5000})},
		"a head beyond the payload":              {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameOpen, Stream: 1, Flags: wire.FlagHead}, 9)},
		"a length of 4 GiB":                      {wire.CodeFrameSize, wire.AppendHeader(nil, wire.Header{Type: wire.FrameData, Stream: 1, Length: 1<<32 - 1})},
		"a message without its length":           {wire.CodeProtocol, frameBytes(wire.Header{Type: wire.FrameOpen, Stream: 1, Flags: wire.FlagHead | wire.FlagMsg | wire.FlagMore}, append(append([]byte{byte(len(echoHead))}, echoHead...), 'x')...)},
	} {
		t.Run(name, func(t *testing.T) {
			// Over a socket, as a pipe never has room for a GOAWAY.
			nc, err := serveUnix(t, newEchoServer(nil, nil))(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			p := &wirePeer{t, nc}
			p.hello()
			p.greeted()
			p.send(tc.b)
			_, b := p.want(wire.FrameGoAway)
			if code := wire.Code(binary.BigEndian.Uint32(b[4:])); code != tc.code {
				t.Errorf("GOAWAY with %v, want %v: %s", code, tc.code, b[8:])
			}
			p.wantClosed()
		})
	}
}

func TestSilentPeerIsClosedInTime(t *testing.T) {
	for name, first := range map[string]string{"nothing": "", "half a preface": wire.Magic[:5], "half of HTTP/2's": "PRI * HT"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, nil, func(t *testing.T, s *Server) {
				a, b := net.Pipe()
				go s.ServeConn(b)
				p := &wirePeer{t, a}
				p.send([]byte(first))
				start := time.Now()
				p.wantClosed()
				if d := time.Since(start); d != DefaultHandshakeTimeout {
					t.Errorf("closed after %v, want %v", d, DefaultHandshakeTimeout)
				}
			})
		})
	}
}

func TestGarbageIsClosedAtOnce(t *testing.T) {
	for _, first := range []string{"SSH-2.0-x\r\n", "\x16\x03\x01", "VSOCKRPC/9\r\n\r\n\x00\xff", "\x00\x00\x00\x00"} {
		inBubble(t, nil, nil, func(t *testing.T, s *Server) {
			a, b := net.Pipe()
			go s.ServeConn(b)
			p := &wirePeer{t, a}
			go a.Write([]byte(first))
			start := time.Now()
			p.wantClosed()
			if d := time.Since(start); d != 0 {
				t.Errorf("%q: closed after %v", first, d)
			}
		})
	}
}

func TestHTTP1IsAnswered(t *testing.T) {
	inBubble(t, nil, nil, func(t *testing.T, s *Server) {
		a, b := net.Pipe()
		go s.ServeConn(b)
		go a.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		all, _ := io.ReadAll(a)
		if !strings.HasPrefix(string(all), "HTTP/1.1 400 ") {
			t.Errorf("got %q", all)
		}
	})
}

// TestOldestHandshakeGivesWay: connections that say nothing cannot keep others out.
func TestOldestHandshakeGivesWay(t *testing.T) {
	inBubble(t, nil, &ServerConfig{MaxHandshakes: 3}, func(t *testing.T, s *Server) {
		var silent []*wirePeer
		for range 4 {
			a, b := net.Pipe()
			go s.ServeConn(b)
			silent = append(silent, &wirePeer{t, a})
			synctest.Wait()
		}
		start := time.Now()
		silent[0].wantClosed()
		if d := time.Since(start); d != 0 {
			t.Errorf("the oldest was closed after %v", d)
		}
		p := wireServer(t, s)
		p.open(1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)
		if c := p.wantEnd(1); c != codes.OK {
			t.Errorf("got %v", c)
		}
	})
}

func TestMaxConnections(t *testing.T) {
	inBubble(t, nil, &ServerConfig{MaxConnections: 1}, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		a, b := net.Pipe()
		go s.ServeConn(b)
		(&wirePeer{t, a}).wantClosed()
		p.open(1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)
		if c := p.wantEnd(1); c != codes.OK {
			t.Errorf("got %v", c)
		}
	})
}

func TestServerKeepalive(t *testing.T) {
	inBubble(t, nil, nil, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		start := time.Now()
		h, b := p.want(wire.FramePing)
		if d := time.Since(start); d != DefaultKeepaliveTime || h.Flags != 0 {
			t.Fatalf("PING after %v with flags %d", d, h.Flags)
		}
		p.frame(wire.Header{Type: wire.FramePing, Flags: wire.FlagAck}, b...)
		p.want(wire.FramePing)
		p.wantClosed()
		if d := time.Since(start); d != 3*DefaultKeepaliveTime+DefaultKeepaliveTimeout && d != 2*DefaultKeepaliveTime+DefaultKeepaliveTimeout {
			t.Errorf("closed after %v", d)
		}
	})
}

func TestClientKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := wireClient(t, nil)
		defer c.Close()
		got := make(chan error, 1)
		go func() {
			got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
		}()
		p.greeted()
		p.want(wire.FrameOpen)
		p.hello()
		p.want(wire.FramePing)
		go p.wantClosed()
		if err := <-got; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no sign of life") {
			t.Errorf("got %v", err)
		}
	})
}

func TestPingIsAnswered(t *testing.T) {
	inBubble(t, nil, nil, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		p.frame(wire.Header{Type: wire.FramePing}, 1, 2, 3, 4, 5, 6, 7, 8)
		if h, b := p.want(wire.FramePing); h.Flags != wire.FlagAck || string(b) != "\x01\x02\x03\x04\x05\x06\x07\x08" {
			t.Errorf("got %+v %x", h, b)
		}
	})
}

func TestIdleTimeout(t *testing.T) {
	inBubble(t, nil, &ServerConfig{IdleTimeout: time.Minute, Keepalive: Keepalive{Time: -1}}, func(t *testing.T, s *Server) {
		start := time.Now()
		p := wireServer(t, s)
		time.Sleep(30 * time.Second)
		p.open(1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)
		p.wantEnd(1)
		p.want(wire.FrameGoAway)
		if d := time.Since(start); d < 90*time.Second || d > 2*time.Minute {
			t.Errorf("GOAWAY after %v", d)
		}
		p.wantClosed()
	})
}

func TestConnectionAge(t *testing.T) {
	ended := make(chan error, 1)
	e := &echo{both: func(st grpc.ServerStream) error {
		<-st.Context().Done()
		ended <- st.Context().Err()
		return nil
	}}
	cfg := &ServerConfig{MaxConnectionAge: time.Minute, MaxConnectionAgeGrace: 10 * time.Second, Keepalive: Keepalive{Time: -1}}
	synctest.Test(t, func(t *testing.T) {
		ended = make(chan error, 1)
		s := newEchoServer(e, cfg)
		defer s.Stop()
		start := time.Now()
		p := wireServer(t, s)
		p.open(1, "/test.Echo/Both", "", 0)
		_, b := p.want(wire.FrameGoAway)
		if d := time.Since(start); d != time.Minute {
			t.Errorf("GOAWAY after %v", d)
		}
		if last := binary.BigEndian.Uint32(b); last != 1 {
			t.Errorf("GOAWAY after stream %d, want 1", last)
		}
		p.open(3, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose) // too late: nobody answers
		p.wantClosed()
		if d := time.Since(start); d != 70*time.Second {
			t.Errorf("closed after %v", d)
		}
		<-ended
	})
}

func TestUnknownExtensionsAreIgnored(t *testing.T) {
	inBubble(t, nil, nil, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		p.frame(wire.Header{Type: 0x99, Flags: 0xff, Stream: 12}, 1, 2, 3)
		p.frame(wire.Header{Type: 0x99}, 1, 2, 3)
		head := wire.AppendItem(wire.AppendItem(nil, 200, "future"), wire.TagMethod, "/test.Echo/Echo")
		payload := append([]byte{byte(len(head))}, head...)
		p.frame(wire.Header{Type: wire.FrameOpen, Stream: 1, Flags: 0xf0 | wire.FlagHead | wire.FlagMsg | wire.FlagClose}, payload...)
		if c := p.wantEnd(1); c != codes.OK {
			t.Errorf("got %v", c)
		}
	})
}

// TestOverSendEndsTheConnection: more bytes than credit is an error of the peer's.
func TestOverSendEndsTheConnection(t *testing.T) {
	e := &echo{both: func(st grpc.ServerStream) error { <-st.Context().Done(); return nil }}
	for name, tc := range map[string]struct{ streams, perStream, within int }{
		"stream":     {1, 5, 4},
		"connection": {100, 4, 4 << 20 / (60<<10 + wire.FrameCost)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, e, &ServerConfig{ConnWindow: 4 << 20, StreamWindow: wire.InitialStreamWindow}, func(t *testing.T, s *Server) {
				p := wireServer(t, s)
				go io.Copy(io.Discard, p.nc)
				chunk := make([]byte, 60<<10)
				sent := 0
				for id := range uint32(tc.streams) {
					p.open(id+1, "/test.Echo/Both", "", 0)
					for range tc.perStream {
						synctest.Wait()
						h := wire.Header{Type: wire.FrameData, Stream: id + 1, Flags: wire.FlagMsg, Length: uint32(len(chunk))}
						if _, err := p.nc.Write(append(wire.AppendHeader(nil, h), chunk...)); err != nil {
							t.Fatal(err)
						}
						synctest.Wait()
						s.mu.Lock()
						alive := len(s.natives) == 1
						s.mu.Unlock()
						if sent++; alive != (sent <= tc.within) {
							t.Fatalf("after %d frames, %d of them within the credit: the connection is there: %v", sent, tc.within, alive)
						}
						if !alive {
							return
						}
					}
				}
			})
		})
	}
}

// TestDiscardedBytesReturnTheirCredit sends to streams that are over, until the
// connection's window would be used up many times.
func TestDiscardedBytesReturnTheirCredit(t *testing.T) {
	const connWindow = 8 << 20
	inBubble(t, nil, &ServerConfig{ConnWindow: connWindow}, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		go func() {
			for {
				if _, _, err := p.read(); err != nil {
					return
				}
			}
		}()
		p.open(1, "/test.Echo/Nope", "", 0)
		chunk := make([]byte, 60<<10)
		for range 3 * connWindow / len(chunk) {
			p.frame(wire.Header{Type: wire.FrameData, Stream: 1, Flags: wire.FlagMsg}, chunk...)
		}
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		for sc := range s.natives {
			sc.mu.Lock()
			w := sc.recv
			sc.mu.Unlock()
			if w.Held != 0 || w.Credit+w.Freed != w.Size {
				t.Errorf("window %+v", w)
			}
			return
		}
		t.Error("the connection has ended")
	})
}

var errTest = errors.New("test")

func TestWrongPeers(t *testing.T) {
	for name, tc := range map[string]struct{ first, want string }{
		"HTTP/2":        {"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", `use the wire "grpc"`},
		"HTTP/1":        {"HTTP/1.1 400 Bad Request\r\n", "HTTP/1 server"},
		"SSH":           {"SSH-2.0-OpenSSH_9\r\n", "SSH server"},
		"TLS alert":     {"\x15\x03\x01\x00\x02\x02\x16", "wants TLS"},
		"other version": {"VSOCKRPC/2\r\n\r\n\x00\xff", "another version"},
		"garbage":       {"\xde\xad\xbe\xef", "check the address"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := wireClient(t, nil)
				defer c.Close()
				go io.Copy(io.Discard, p.nc)
				go p.nc.Write([]byte(tc.first))
				start := time.Now()
				err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
				if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				if d := time.Since(start); d > time.Second {
					t.Errorf("after %v", d)
				}
			})
		})
	}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := wireClient(t, &ClientConfig{ConnectTimeout: 3 * time.Second})
			defer c.Close()
			go io.Copy(io.Discard, p.nc)
			start := time.Now()
			err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "said nothing") {
				t.Errorf("got %v", err)
			}
			if d := time.Since(start); d != 3*time.Second {
				t.Errorf("after %v", d)
			}
		})
	})
	t.Run("real gRPC server", func(t *testing.T) {
		gs := grpc.NewServer()
		gs.RegisterService(&echoDesc, nil)
		c := NewClient(serveUnix(t, gs2{gs}), nil)
		defer c.Close()
		err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), `use the wire "grpc"`) {
			t.Errorf("got %v", err)
		}
	})
}

type gs2 struct{ *grpc.Server }

func TestClientErrorsOfTheServer(t *testing.T) {
	for name, send := range map[string]func(p *wirePeer){
		"unsolicited END":    func(p *wirePeer) { p.frame(wire.Header{Type: wire.FrameEnd, Stream: 99}) },
		"unsolicited HEADER": func(p *wirePeer) { p.frame(wire.Header{Type: wire.FrameHeader, Stream: 99}) },
		"OPEN":               func(p *wirePeer) { p.frame(wire.Header{Type: wire.FrameOpen, Stream: 1}) },
		"two HEADERs": func(p *wirePeer) {
			p.frame(wire.Header{Type: wire.FrameHeader, Stream: 1})
			p.frame(wire.Header{Type: wire.FrameHeader, Stream: 1})
		},
		"two HELLOs": func(p *wirePeer) { p.frame(wire.Header{Type: wire.FrameHello}) },
		"DATA with CLOSE": func(p *wirePeer) {
			p.frame(wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg | wire.FlagClose, Stream: 1}, 0x0a, 1, 'x')
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := wireClient(t, nil)
				defer c.Close()
				got := make(chan error, 1)
				go func() {
					got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
				}()
				p.greeted()
				p.want(wire.FrameOpen)
				p.hello()
				go p.wantClosed()
				send(p)
				if err := <-got; status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "PROTOCOL") {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// TestAnswerBeforeTheConnectionBreaks: a call whose answer comes in one read with
// what breaks the connection has its answer, whoever reads.
func TestAnswerBeforeTheConnectionBreaks(t *testing.T) {
	for _, answered := range []uint32{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			c, p := wireClient(t, nil)
			defer c.Close()
			defer p.nc.Close()
			errs := make([]error, 2)
			done := make(chan struct{}, 2)
			for i := range errs {
				go func() {
					errs[i] = c.Invoke(t.Context(), "/test.Echo/Echo", value("hi"), new(wrapperspb.StringValue))
					done <- struct{}{}
				}()
				if i == 0 {
					p.greeted()
				}
				p.want(wire.FrameOpen)
				synctest.Wait()
			}
			p.hello()
			synctest.Wait()
			b := wire.AppendHeader(nil, wire.Header{Type: wire.FrameEnd, Stream: answered, Flags: wire.FlagMsg})
			p.send(append(b, wire.AppendHeader(nil, wire.Header{Type: wire.FrameHello})...))
			<-done
			<-done
			for i, err := range errs {
				want := codes.Internal
				if uint32(i+1) == answered {
					want = codes.OK
				}
				if status.Code(err) != want {
					t.Errorf("stream %d answered, stream %d: %v", answered, i+1, err)
				}
			}
		})
	}
}

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
