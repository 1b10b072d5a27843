package rpc

import (
	"context"
	"errors"
	"net"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// newHTTP2Server returns the stock server for clients that speak HTTP/2, with the
// same limits, interceptors and stats handlers.
func newHTTP2Server(cfg *ServerConfig, strangers bool) http2Server {
	max, recv := cfg.MaxConcurrentStreams, cfg.MaxRecvMsgSize
	if max == 0 {
		max = DefaultMaxConcurrentStreamsHTTP2
	}
	if strangers {
		max, recv = min(max, MaxStrangerStreams), min(recv, MaxStrangerRecvSize)
	}
	opts := []grpc.ServerOption{
		grpc.Creds(handshakenCreds{}),
		grpc.ForceServerCodecV2(http2Codec{}),
		grpc.MaxConcurrentStreams(max),
		grpc.MaxRecvMsgSize(recv),
		grpc.MaxSendMsgSize(cfg.MaxSendMsgSize),
		grpc.MaxHeaderListSize(uint32(cfg.MaxHeaderBytes)),
		grpc.ConnectionTimeout(cfg.HandshakeTimeout),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:                  keepaliveOrForever(cfg.Keepalive.Time),
			Timeout:               cfg.Keepalive.Timeout,
			MaxConnectionIdle:     cfg.IdleTimeout,
			MaxConnectionAge:      cfg.MaxConnectionAge,
			MaxConnectionAgeGrace: cfg.MaxConnectionAgeGrace,
		}),
		// A client may ask for signs of life as often as this side does.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minHTTP2Ping, PermitWithoutStream: true}),
	}
	opts = append(opts, grpc.ChainUnaryInterceptor(cfg.keepUnaryPanic), grpc.ChainStreamInterceptor(subtypeStreams, cfg.keepStreamPanic))
	if cfg.UnaryInterceptor != nil {
		opts = append(opts, grpc.ChainUnaryInterceptor(cfg.UnaryInterceptor))
	}
	if cfg.StreamInterceptor != nil {
		opts = append(opts, grpc.ChainStreamInterceptor(cfg.StreamInterceptor))
	}
	for _, h := range cfg.StatsHandlers {
		opts = append(opts, grpc.StatsHandler(h))
	}
	if cfg.UnknownServiceHandler != nil {
		opts = append(opts, grpc.UnknownServiceHandler(cfg.UnknownServiceHandler))
	}
	if strangers {
		// HTTP/2's own smallest, which a fast client does not get raised.
		opts = append(opts, grpc.StaticStreamWindowSize(http2Window), grpc.StaticConnWindowSize(http2Window))
	}
	return http2Server{grpc.NewServer(opts...), newHTTP2Listener()}
}

// http2Window is HTTP/2's initial window (RFC 9113, section 6.5.2), about.
const http2Window = 64 << 10

// http2Server is a stock server and what hands it connections.
type http2Server struct {
	*grpc.Server
	lis *http2Listener
}

// http2Servers returns the one for clients that are known, and that for the others.
func (s *Server) http2Servers() []http2Server {
	if s.strangeHTTP2.Server == nil {
		return []http2Server{s.http2}
	}
	return []http2Server{s.http2, s.strangeHTTP2}
}

// keepUnaryPanic keeps the panic of a handler from ending the process.
func (c *ServerConfig) keepUnaryPanic(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (_ any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = c.panicked(info.FullMethod, p)
		}
	}()
	return h(ctx, req)
}

// keepStreamPanic does the same for streams.
func (c *ServerConfig) keepStreamPanic(srv any, st grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = c.panicked(info.FullMethod, p)
		}
	}()
	return h(srv, st)
}

// panicked logs a panic of a handler and returns what its caller is told.
func (c *ServerConfig) panicked(method string, p any) error {
	c.Logger.Error("rpc: handler panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
	return status.Errorf(codes.Internal, "rpc: the handler of %s panicked", method)
}

// handshakenCreds gives gRPC the AuthInfo of a connection whose handshake is done.
type handshakenCreds struct{}

// noAuthInfo stands for a connection that says nothing about its peer.
type noAuthInfo struct{ credentials.CommonAuthInfo }

func (noAuthInfo) AuthType() string { return "none" }

func (handshakenCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	h, ok := c.(*http2Conn)
	if !ok {
		return nil, nil, errors.New("rpc: not a connection of this server")
	}
	if h.info == nil {
		return c, noAuthInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
	}
	return c, h.info, nil
}

func (handshakenCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("rpc: these credentials are for servers")
}

func (handshakenCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "vsockrpc"}
}
func (c handshakenCreds) Clone() credentials.TransportCredentials { return c }
func (handshakenCreds) OverrideServerName(string) error           { return nil }

// http2Conn is a connection whose first bytes were read already.
type http2Conn struct {
	*handshaken
	ended func()
	once  sync.Once
}

func (c *http2Conn) Read(p []byte) (int, error) {
	if len(c.begun) > 0 {
		n := copy(p, c.begun)
		c.begun = c.begun[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *http2Conn) Close() error {
	c.once.Do(c.ended)
	return c.Conn.Close()
}

// http2Listener hands connections to the stock server.
type http2Listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHTTP2Listener() *http2Listener {
	return &http2Listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *http2Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *http2Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *http2Listener) Addr() net.Addr { return http2Addr{} }

type http2Addr struct{}

func (http2Addr) Network() string { return "rpc" }
func (http2Addr) String() string  { return "http2" }

// hand gives c to the stock server, or closes it if that has stopped.
func (l *http2Listener) hand(c *http2Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close()
	}
}
