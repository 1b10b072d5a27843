package rpc

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// TestGoAwaySaysWhy: the code and the text of a GOAWAY are in the status of the calls
// that it ends, of those in flight and of those that the server has not seen.
func TestGoAwaySaysWhy(t *testing.T) {
	for code := wire.CodeProtocol; code <= wire.CodeTooOld+1; code++ {
		for _, last := range []uint32{0, 1} {
			synctest.Test(t, func(t *testing.T) {
				c, p := wireClient(t, nil)
				defer c.Close()
				defer p.nc.Close()
				got := make(chan error, 1)
				go func() {
					got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
				}()
				p.greeted()
				p.want(wire.FrameOpen)
				p.hello()
				p.send(wire.AppendGoAway(nil, last, code, "because\xff"))
				p.nc.Close()
				err := <-got
				want := code.Status()
				st := status.Convert(err)
				if st.Code() != want || !strings.Contains(st.Message(), "because\uFFFD") || !strings.Contains(st.Message(), code.String()) {
					t.Errorf("GOAWAY(%d, %v): %v, want %v with the text", last, code, err, want)
				}
			})
		}
	}
}

// TestFaultyServersAreLeftAlone: a client whose every connection ends with a GOAWAY
// tries less and less often.
func TestFaultyServersAreLeftAlone(t *testing.T) {
	for name, bye := range map[string][]byte{
		"PROTOCOL": wire.AppendGoAway(nil, 0, wire.CodeProtocol, "no"),
		"NONE":     wire.AppendGoAway(nil, 0, wire.CodeNone, "no"),
		"a fault":  wire.AppendHeader(nil, wire.Header{Type: wire.FrameOpen, Stream: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dials := 0
				c := NewClient(func(context.Context) (net.Conn, error) {
					dials++
					a, b := net.Pipe()
					p := &wirePeer{t, b}
					go func() {
						defer b.Close()
						p.greeted()
						p.hello()
						p.send(bye)
						_, _ = io.Copy(io.Discard, b)
					}()
					return a, nil
				}, nil)
				defer c.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
				defer cancel()
				err := c.Invoke(ctx, "/test.Echo/Echo", value("x"), value(""), grpc.WaitForReady(true))
				if name != "a fault" && status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("got %v", err)
				}
				if name == "a fault" { // it may have run, so each call is made once
					for ctx.Err() == nil {
						_ = c.Invoke(ctx, "/test.Echo/Echo", value("x"), value(""), grpc.WaitForReady(true))
					}
				}
				if dials > 35 {
					t.Errorf("%d connections in a minute", dials)
				}
			})
		})
	}
}

// TestClientSaysWhyItLeaves: a server ends a connection whose client has sent GOAWAY
// with a code, and goes on after one without.
func TestClientSaysWhyItLeaves(t *testing.T) {
	inBubble(t, nil, nil, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		p.send(wire.AppendGoAway(nil, 0, wire.CodeNone, "soon"))
		p.open(1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)
		p.wantEnd(1)
		p.send(wire.AppendGoAway(nil, 0, wire.CodeProtocol, "no"))
		p.wantClosed()
	})
}

// TestGoAwayOnlyFalls: the id in a GOAWAY may become lower, and not higher.
func TestGoAwayOnlyFalls(t *testing.T) {
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
		p.send(wire.AppendGoAway(nil, 7, wire.CodeNone, ""))
		p.send(wire.AppendGoAway(nil, 1, wire.CodeNone, ""))
		p.send(wire.AppendGoAway(nil, 2, wire.CodeNone, ""))
		if _, b := p.want(wire.FrameGoAway); wire.Code(b[7]) != wire.CodeProtocol {
			t.Errorf("GOAWAY %q", b)
		}
		p.wantClosed()
		if err := <-got; status.Code(err) != codes.Internal {
			t.Errorf("got %v", err)
		}
	})
}

// TestLastWords: the GOAWAY that says what a peer has broken comes although the writer
// is busy at that moment, over any kind of connection.
func TestLastWords(t *testing.T) {
	for _, which := range []string{"native/unix", "native/tls", "native/pipe"} {
		t.Run(which, func(t *testing.T) {
			for range 20 {
				e := &echo{both: func(st grpc.ServerStream) error {
					for {
						if err := st.SendMsg(wrapperspb.Bytes(make([]byte, 32<<10))); err != nil {
							return err
						}
					}
				}}
				s := newEchoServer(e, serverConfigFor(which))
				nc := mustDial(t, serveFor(t, s, which))
				if strings.HasSuffix(which, "/tls") {
					_, cfg := testTLS()
					cfg = cfg.Clone()
					cfg.NextProtos = []string{alpn}
					nc = tls.Client(nc, cfg)
				}
				p := &wirePeer{t, nc}
				p.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: 8 << 20, ConnWindow: 8 << 20}))
				p.greeted()
				p.open(1, "/test.Echo/Both", "", 0)
				p.want(wire.FrameData)
				// A pipe holds nothing, and a client reads while it writes.
				go p.nc.Write(wire.AppendHeader(nil, wire.Header{Type: wire.FrameHello}))
				if _, b := p.want(wire.FrameGoAway); wire.Code(b[7]) != wire.CodeProtocol {
					t.Errorf("GOAWAY %q", b)
				}
				p.wantClosed()
				s.Stop()
			}
		})
	}
}

// TestOnlyUTF8 makes both sides send texts that are none, or are cut within a
// character.
func TestOnlyUTF8(t *testing.T) {
	check := func(what string, b []byte) {
		t.Helper()
		if !utf8.Valid(b) {
			t.Errorf("%s: %.60q … %q", what, b, b[max(0, len(b)-8):])
		}
	}
	for n := range 4 {
		text := strings.Repeat("x", n) + strings.Repeat("日本", 30_000)
		check("RESET", wire.AppendReset(nil, 1, wire.CodeResource, text)[wire.HeaderLen+4:])
		check("GOAWAY", wire.AppendGoAway(nil, 1, wire.CodeFlood, text)[wire.HeaderLen+8:])
		h, err := wire.ParseHello(wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow,
			Info: wire.Info{Software: text, BootID: text, Generation: text}, Authority: text, UserAgent: text})[len(wire.Magic)+wire.HeaderLen:])
		if err != nil {
			t.Fatal(err)
		}
		check("HELLO", []byte(h.Info.Software+h.Info.BootID+h.Info.Generation+h.Authority+h.UserAgent))
		e := &echo{unary: func(context.Context, *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
			return nil, status.Error(codes.Aborted, text)
		}}
		if n == 3 {
			e.unary = func(context.Context, *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
				return nil, status.Error(codes.Aborted, "caf\xe9")
			}
		}
		s := newEchoServer(e, nil)
		p := &wirePeer{t, mustDial(t, serveUnix(t, s))}
		p.hello()
		p.greeted()
		p.open(1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)
		p.open(2, "/test.\xff/Echo", "x", wire.FlagMsg|wire.FlagClose)
		for range 2 {
			h, b := p.want(wire.FrameEnd)
			head, _, err := wire.SplitHead(h, b)
			if err != nil {
				t.Fatal(err)
			}
			for len(head) > 0 {
				var tag byte
				var v []byte
				if tag, v, head, err = wire.NextItem(head); err != nil {
					t.Fatal(err)
				}
				if tag == wire.TagMessage {
					check("END", v)
					if len(v) == 0 {
						t.Error("END without text")
					}
				}
			}
		}
	}
	c := NewClient(func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go io.Copy(io.Discard, b)
		return a, nil
	}, nil)
	defer c.Close()
	if err := c.Invoke(t.Context(), "/a.B/\xff", value("x"), value("")); status.Code(err) != codes.Unimplemented || !utf8.ValidString(err.Error()) {
		t.Errorf("a method name that is no text: %v", err)
	}
}

// TestTextsOfThePeerBecomeUTF8: whatever the peer sends, a status can be passed on.
func TestTextsOfThePeerBecomeUTF8(t *testing.T) {
	for name, frame := range map[string]func(p *wirePeer){
		"END": func(p *wirePeer) {
			p.frame(wire.Header{Type: wire.FrameEnd, Flags: wire.FlagHead, Stream: 1}, 6, wire.TagCode, 1, 10, wire.TagMessage, 1, 0xff)
		},
		"RESET": func(p *wirePeer) {
			p.send(append(wire.AppendHeader(nil, wire.Header{Type: wire.FrameReset, Stream: 1, Length: 5}), 0, 0, 0, 8, 0xff))
		},
	} {
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
			frame(p)
			if err := <-got; err == nil || !utf8.ValidString(err.Error()) || !strings.Contains(err.Error(), "\uFFFD") {
				t.Errorf("%s: %q", name, err)
			}
		})
	}
}

// TestALPNIsInsistedOn: a client that has offered the native wire under TLS does not
// go on with a server that has not agreed.
func TestALPNIsInsistedOn(t *testing.T) {
	stls, ctls := testTLS()
	for name, tc := range map[string]struct {
		alter func(*tls.Config)
		ok    bool
	}{
		"agreed": {func(*tls.Config) {}, true},
		"agreed for a client": {func(cfg *tls.Config) {
			own := cfg.Clone()
			cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return own, nil }
		}, true},
		"no ALPN": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := stls.Clone()
			var dial dialFunc
			if tc.alter != nil {
				tc.alter(cfg)
				dial = serveUnix(t, newEchoServer(&echo{}, &ServerConfig{TLS: cfg}))
			} else {
				plain := newEchoServer(&echo{}, nil)
				dial = servePipe(t, plain)
				inner := dial
				dial = func(ctx context.Context) (net.Conn, error) {
					behind, err := inner(ctx)
					if err != nil {
						return nil, err
					}
					a, b := net.Pipe()
					front := tls.Server(b, cfg) // terminates TLS, and knows no ALPN
					go func() { defer behind.Close(); _, _ = io.Copy(behind, front) }()
					go func() { defer front.Close(); _, _ = io.Copy(front, behind) }()
					return a, nil
				}
			}
			c := NewClient(dial, &ClientConfig{TLS: ctls})
			defer c.Close()
			err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
			if tc.ok && err != nil || !tc.ok && (!isWrongProtocol(err) || !strings.Contains(err.Error(), alpn)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestOtherVersions: a client of another version is told what this server speaks.
func TestOtherVersions(t *testing.T) {
	for _, theirs := range []string{"VSOCKRPC/2\r\n\r\n\x00\xff", "VSOCKRPC/\x00\x01anything"} {
		nc := mustDial(t, serveUnix(t, newEchoServer(nil, nil)))
		p := &wirePeer{t, nc}
		p.send([]byte(theirs + "and whatever comes after it"))
		p.greeted()
		if _, b := p.want(wire.FrameGoAway); wire.Code(binary.BigEndian.Uint32(b[4:])) != wire.CodeTooOld {
			t.Errorf("GOAWAY %q", b)
		}
		p.wantClosed()
	}
}
