package rpc

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

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

// isWrongProtocol reports whether err says that calling again does not help, and why.
func isWrongProtocol(err error) bool {
	st := status.Convert(err)
	info, ok := append(st.Details(), nil)[0].(*errdetails.ErrorInfo)
	return ok && st.Code() == codes.FailedPrecondition && info.Reason == ReasonWrongProtocol && info.Domain == "vsockrpc"
}

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
				if !isWrongProtocol(err) || !strings.Contains(err.Error(), tc.want) {
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
		if !isWrongProtocol(err) || !strings.Contains(err.Error(), `use the wire "grpc"`) {
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
