package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// http2Preface is what an HTTP/2 client sends first.
const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// alpn is the name of the native wire under TLS.
const alpn = "vsockrpc/1"

// protocol is what a client speaks.
type protocol int

const (
	protoNative protocol = iota
	protoHTTP2
)

// handshaken is a connection that has sent its first valid bytes.
type handshaken struct {
	net.Conn
	proto protocol
	begun []byte // read already
	info  credentials.AuthInfo
}

// handshake does TLS, if the server wants it, and finds out which wire the client
// speaks. Somebody else makes its reads and writes fail after the deadline.
func (s *Server) handshake(a *arrival) (*handshaken, error) {
	h := &handshaken{Conn: a.nc, info: authInfoOf(a.nc)}
	protocol := ""
	if s.cfg.TLS != nil {
		h.begun = make([]byte, 1)
		if _, err := io.ReadFull(a.nc, h.begun); err != nil {
			return nil, err
		}
		s.spoke(a)
	}
	if s.cfg.TLS != nil && (!s.cfg.OptionalTLS || h.begun[0] == tlsHandshakeRecord) {
		tc := tls.Server(&sock.Prefixed{Conn: a.nc, Begun: h.begun}, s.tls)
		h.begun = nil
		ctx, cancel := context.WithDeadline(s.ctx, a.deadline)
		err := tc.HandshakeContext(ctx)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		h.Conn, h.info = tc, tlsInfo(tc.ConnectionState(), h.info)
		protocol = tc.ConnectionState().NegotiatedProtocol
	}
	if err := h.sniff(protocol, func() { s.spoke(a) }); err != nil {
		return nil, err
	}
	return h, nil
}

// tlsHandshakeRecord is the first byte of a client that speaks TLS (RFC 8446,
// section 5.1), and of none that speaks one of the wires.
const tlsHandshakeRecord = 22

func tlsInfo(cs tls.ConnectionState, below credentials.AuthInfo) AuthInfo {
	return AuthInfo{
		TLSInfo: credentials.TLSInfo{
			State:          cs,
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		},
		Transport: below,
	}
}

// httpAnswer is for browsers and the like.
const httpAnswer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" +
	"This port speaks gRPC over HTTP/2 and the native wire of vsockrpc, not HTTP/1.\n"

// sniff reads until it is clear what the client speaks, and calls spoke when it has
// begun to. protocol is what ALPN has agreed on, or "".
func (h *handshaken) sniff(protocol string, spoke func()) error {
	buf := append(make([]byte, 0, sock.SniffSize), h.begun...)
	for {
		n, err := h.Conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if len(buf) > 0 {
			switch {
			case startsLike(buf, wire.Magic) && protocol != "h2":
				if len(buf) >= len(wire.Magic) {
					h.proto, h.begun = protoNative, buf
					return nil
				}
			case startsLike(buf, wire.AnyMagic) && protocol != "h2":
				if len(buf) >= len(wire.Magic) {
					return h.tooOld(buf[:len(wire.Magic)])
				}
			case startsLike(buf, http2Preface) && protocol != alpn:
				if len(buf) >= len(http2Preface) {
					h.proto, h.begun = protoHTTP2, buf
					return nil
				}
			default:
				if protocol == "" && looksLikeHTTP1(buf) {
					_, _ = io.WriteString(h.Conn, httpAnswer)
				}
				return fmt.Errorf("the client's first bytes %q are of no protocol known here", buf[:min(24, len(buf))])
			}
			spoke()
		}
		if err != nil {
			if isTimeout(err) {
				return fmt.Errorf("no valid preface in time, after %d bytes", len(buf))
			}
			if errors.Is(err, io.EOF) && len(buf) == 0 {
				return io.EOF
			}
			return fmt.Errorf("%d bytes into the preface: %w", len(buf), err)
		}
	}
}

// tooOld answers a client that speaks another version of the native wire: with this
// side's preface, which says what it speaks, and the reason. The client can connect
// again then, with that version or on the other wire.
func (h *handshaken) tooOld(theirs []byte) error {
	b := wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow})
	b = wire.AppendGoAway(b, 0, wire.CodeTooOld, "this server speaks version 1 of the native wire")
	if _, err := h.Conn.Write(b); err == nil {
		if c, ok := h.Conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
			// To close with something unread could take the answer away.
			_, _ = io.Copy(io.Discard, io.LimitReader(h.Conn, 256<<10))
		}
	}
	return fmt.Errorf("the client speaks another version of the native wire, %q", theirs)
}

// startsLike reports whether b may be, or go on to be, preface.
func startsLike(b []byte, preface string) bool {
	n := min(len(b), len(preface))
	return string(b[:n]) == preface[:n]
}

func looksLikeHTTP1(b []byte) bool {
	for _, m := range []string{"GET ", "POST", "PUT ", "HEAD", "DELE", "OPTI", "PATC", "CONN", "TRAC"} {
		if len(b) >= 3 && startsLike(b, m) {
			return true
		}
	}
	return false
}

func (h *handshaken) peer() *peer.Peer {
	return &peer.Peer{Addr: h.Conn.RemoteAddr(), LocalAddr: h.Conn.LocalAddr(), AuthInfo: h.info}
}
