package rpc

import (
	"crypto/tls"
	"log/slog"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// Defaults of ServerConfig and ClientConfig.
const (
	DefaultMaxConcurrentStreams      = 256             // per native connection
	DefaultMaxConcurrentStreamsHTTP2 = 100             // per HTTP/2 connection
	DefaultMaxRecvMsgSize            = 4 << 20         // bytes, as in gRPC
	DefaultMaxSendMsgSize            = math.MaxInt32   // bytes, as in gRPC
	DefaultMaxHeaderBytes            = 16 << 10        // metadata of one direction of a call
	DefaultStreamWindow              = 1 << 20         // bytes a peer may send ahead on one stream
	DefaultConnWindow                = 64 << 20        // bytes a peer may send ahead on one connection
	DefaultServerBudget              = 128 << 20       // bytes received and not consumed, of all connections
	DefaultHandshakeTimeout          = 5 * time.Second // from accept to the first valid bytes
	DefaultMaxHandshakes             = 64              // connections before their first valid bytes
	DefaultKeepaliveTime             = 10 * time.Second
	DefaultKeepaliveTimeout          = 10 * time.Second
	DefaultSpin                      = 50 * time.Microsecond
)

// HelloInfo is what a side says about itself when a connection begins. All of it
// is optional and shown to the peer as it is: trust it no more than the peer.
type HelloInfo struct {
	// Software is a name and version, such as "guest-agent/1.2.0"; at most 128
	// bytes are sent.
	Software string
	// BootID tells one boot of the machine from the next; at most 64 bytes are sent.
	BootID string
	// Generation tells a machine from its copies and its own earlier snapshots
	// (the VM generation ID, for instance); at most 64 bytes are sent.
	Generation string
}

// Keepalive says when a connection is asked for a sign of life, and how long the
// answer may take. A vsock finds a dead peer in no other way.
type Keepalive struct {
	// Time is how long nothing may arrive before a ping is sent. 0 means
	// DefaultKeepaliveTime, negative never. Less than 10 ms counts as 10 ms.
	Time time.Duration
	// Timeout is how long the answer may take before the connection is closed
	// and its calls end with codes.Unavailable. 0 means DefaultKeepaliveTimeout.
	Timeout time.Duration
}

// ServerConfig configures a Server. The zero value, and nil, are ready to use.
// NewServer copies it; what its pointers refer to must not change afterwards.
type ServerConfig struct {
	// TLS, if not nil, is required of every connection. The server adds its ALPN
	// names to a copy of it. Handlers find the state as AuthInfo.TLS.
	TLS *tls.Config
	// OptionalTLS serves clients that begin without TLS too. It is for services
	// that look at AuthInfo: nothing else tells the two apart.
	OptionalTLS bool

	// The interceptors of every call, on either wire. Those of the lists come after
	// the single ones, the first of them outermost.
	UnaryInterceptor   grpc.UnaryServerInterceptor
	StreamInterceptor  grpc.StreamServerInterceptor
	UnaryInterceptors  []grpc.UnaryServerInterceptor
	StreamInterceptors []grpc.StreamServerInterceptor
	StatsHandlers      []stats.Handler

	// UnknownServiceHandler, if not nil, gets the calls of methods that are not
	// registered; without it they end with codes.Unimplemented.
	UnknownServiceHandler grpc.StreamHandler

	// MaxConcurrentStreams bounds the calls of one connection whose handlers
	// run; more wait. 0 means 256 on the native wire and 100 on HTTP/2.
	MaxConcurrentStreams uint32
	// MaxRecvMsgSize and MaxSendMsgSize bound one message, in bytes. A message
	// beyond them ends its call with codes.ResourceExhausted. 0 means gRPC's
	// defaults, 4 MiB and 2 GiB - 1.
	MaxRecvMsgSize int
	MaxSendMsgSize int
	// MaxHeaderBytes bounds the metadata that a call may bring or take, in bytes.
	// 0 means 16 KiB; more than 60 KiB counts as 60 KiB.
	MaxHeaderBytes int

	// StreamWindow is how many bytes a client may send ahead of the handler on
	// one native stream. 0 means 1 MiB; the range is 256 KiB to 16 MiB.
	StreamWindow int
	// ConnWindow is the same for all streams of one native connection together:
	// what one connection may make the server hold. 0 means 64 MiB; the range is
	// 1 MiB to 1 GiB. ConnWindow / StreamWindow handlers may stop reading without
	// holding up the other streams of their connection: 64.
	ConnWindow int
	// Budget bounds what all native connections together may make the server hold:
	// messages that are not consumed, and 6 KiB for each call. Half of it is for who
	// comes first; of the rest a connection gets a third of what it leaves, less what
	// its Peer holds. A stream that would go beyond that ends with
	// codes.ResourceExhausted, and a call is refused. It should be 8 times
	// MaxRecvMsgSize at least. 0 means that, and no less than 128 MiB.
	Budget int64
	// Relieved, if not nil, is called when most of 8 MiB or more that was held is no
	// longer: a second later, at most once in 10 s, on a goroutine of its own. The
	// memory is garbage then, which a process that has nothing else to do keeps for
	// minutes; a program of its own may have it collected (debug.FreeOSMemory).
	Relieved func()

	// HandshakeTimeout is how long a connection may take to send its first valid
	// bytes (and to finish TLS). 0 means 5 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the connections that have not sent them yet; when one
	// more comes another is closed: a stranger's if there is one, of the peer with
	// the most of them, the oldest. Those of which nothing was received and those of
	// which something was have half of it each. 0 means 64.
	MaxHandshakes int
	// Peer, if not nil, tells one peer from another for that and for Budget, by the
	// AuthInfo of the connection's transport, which may be nil; "" means that nothing
	// is known of the peer. It must not block, and may be called
	// concurrently.
	Peer func(credentials.AuthInfo) string
	// MaxConnections bounds the connections in all; more are closed at once. 0
	// means no bound.
	MaxConnections int

	// Known, if not nil, tells known clients from strangers, for the sake of limits
	// alone: who may call what is for interceptors to say. It is asked about each
	// connection when it comes, with the AuthInfo of its transport, which may be
	// nil, and again when its handshake is over, with that of TLS. Strangers give
	// way to known clients, in the handshake and within MaxConnections, and are
	// bound as MaxStrangers and the constants beside it say. Without it nobody is a
	// stranger. It must not block, and may be called concurrently.
	Known func(credentials.AuthInfo) bool
	// Admit, if not nil, is asked about each connection of a known client once its
	// handshake is over, with the AuthInfo that handlers see. If it returns nil the
	// connection is closed at once. Otherwise what it returns is called when the
	// connection and its handlers have ended, and until then end ends it, from any
	// goroutine but in Admit itself, nor under a lock that these functions take. It
	// may be called concurrently.
	Admit func(info credentials.AuthInfo, end func()) (gone func())

	Keepalive Keepalive
	// IdleTimeout, if positive, closes a connection that had no call for so long.
	IdleTimeout time.Duration
	// MaxConnectionAge, if positive, asks a connection of that age to end: calls
	// in flight finish, new ones go to a new connection. After another
	// MaxConnectionAgeGrace, if positive, it is closed.
	MaxConnectionAge      time.Duration
	MaxConnectionAgeGrace time.Duration

	// Hello is what clients on the native wire are told.
	Hello HelloInfo

	// Spin is how long the goroutine that reads a connection looks for the next
	// request before it sleeps, when one call at a time is in flight and that has
	// paid off lately. 0 means 50 µs, longer than it takes to wake the other side's
	// CPU; negative means never. Where it does not pay off it is tried once in 1,024
	// sleeps; meanwhile other goroutines run, but not other processes.
	Spin time.Duration
	// HandlersApart starts every unary handler on a goroutine of its own. Without
	// it, handlers that have proved to be quick run on the goroutine that reads
	// the connection, which another takes over if one of them is slow after all: that
	// delays the other calls of the connection by at most 0.5 ms, and what the
	// scheduler adds. If such a handler leaves runtime.LockOSThread on, its goroutine
	// and its thread end, and the method runs apart from then on; but calls of the
	// same millisecond may have run on that thread before. Set it where handlers
	// change their thread.
	HandlersApart bool

	// Logger gets what concerns no single call: handshakes that failed, panics of
	// handlers. nil means slog.Default.
	Logger *slog.Logger
}

// ClientConfig configures a Client. The zero value, and nil, are ready to use.
// NewClient copies it; what its pointers refer to must not change afterwards.
type ClientConfig struct {
	// TLS, if not nil, is spoken on every connection. ServerName, or
	// InsecureSkipVerify with VerifyConnection, must be set in it.
	TLS *tls.Config

	// The interceptors get nil for their *grpc.ClientConn, as there is none. Those of
	// the lists come after the single ones, the first of them outermost. There is no
	// service config, and no policy of retries in one: an interceptor that calls its
	// invoker again makes them, and one that derives a context sets timeouts.
	UnaryInterceptor   grpc.UnaryClientInterceptor
	StreamInterceptor  grpc.StreamClientInterceptor
	UnaryInterceptors  []grpc.UnaryClientInterceptor
	StreamInterceptors []grpc.StreamClientInterceptor
	StatsHandlers      []stats.Handler
	DefaultCallOptions []grpc.CallOption
	PerRPCCredentials  credentials.PerRPCCredentials

	// Authority is the :authority that servers see and that per-call credentials
	// are made for. "" means TLS's ServerName, else "localhost".
	Authority string
	// UserAgent is sent with each connection as metadata "user-agent".
	UserAgent string

	// Backoff spaces the attempts to connect. The zero value means 50 ms growing
	// by 1.6 to 5 s, each ±20 %.
	Backoff backoff.Config
	// ConnectTimeout bounds one attempt: dial, TLS, and the first answer. 0 means 20 s.
	ConnectTimeout time.Duration

	// MaxHeaderBytes is as in ServerConfig.
	MaxHeaderBytes int
	// StreamWindow and ConnWindow are as in ServerConfig.
	StreamWindow int
	ConnWindow   int

	Keepalive Keepalive
	// IdleTimeout, if positive, closes the connection when no call was made for
	// so long. The next call connects again.
	IdleTimeout time.Duration

	// Hello is what the server is told.
	Hello HelloInfo

	// Spin is as in ServerConfig, for a caller that waits for its answer.
	Spin time.Duration

	// Logger gets what concerns no single call. nil means slog.Default.
	Logger *slog.Logger
}

// defaultBackoff is for peers on the same machine: an agent that boots, or a
// connection that a restore has cut.
var defaultBackoff = backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}

// orDefault returns v, or d if v is not positive, but at least lo and, if hi is
// not 0, at most hi.
func orDefault[T int | int64 | time.Duration](v, d, lo, hi T) T {
	if v <= 0 {
		v = d
	}
	v = max(v, lo)
	if hi > 0 {
		v = min(v, hi)
	}
	return v
}

// setDefaults fills in what is zero, except MaxConcurrentStreams.
func (c *ServerConfig) setDefaults() *ServerConfig {
	c.UnaryInterceptor = chain(c.UnaryInterceptor, c.UnaryInterceptors, joinUnaryServer)
	c.StreamInterceptor = chain(c.StreamInterceptor, c.StreamInterceptors, joinStreamServer)
	c.MaxRecvMsgSize = orDefault(c.MaxRecvMsgSize, DefaultMaxRecvMsgSize, 0, 0)
	c.MaxSendMsgSize = orDefault(c.MaxSendMsgSize, DefaultMaxSendMsgSize, 0, 0)
	c.MaxHeaderBytes = orDefault(c.MaxHeaderBytes, DefaultMaxHeaderBytes, 0, maxMetadata)
	c.StreamWindow = orDefault(c.StreamWindow, DefaultStreamWindow, wire.InitialStreamWindow, 16<<20)
	c.ConnWindow = orDefault(c.ConnWindow, DefaultConnWindow, wire.InitialConnWindow, 1<<30)
	c.Budget = orDefault(c.Budget, max(DefaultServerBudget, 8*int64(c.MaxRecvMsgSize)), 0, 0)
	c.HandshakeTimeout = orDefault(c.HandshakeTimeout, DefaultHandshakeTimeout, 0, 0)
	c.MaxHandshakes = orDefault(c.MaxHandshakes, DefaultMaxHandshakes, 0, 0)
	c.Keepalive.setDefaults()
	if c.Spin == 0 {
		c.Spin = DefaultSpin
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// setDefaults fills in what is zero.
func (c *ClientConfig) setDefaults() {
	c.UnaryInterceptor = chain(c.UnaryInterceptor, c.UnaryInterceptors, joinUnaryClient)
	c.StreamInterceptor = chain(c.StreamInterceptor, c.StreamInterceptors, joinStreamClient)
	c.MaxHeaderBytes = orDefault(c.MaxHeaderBytes, DefaultMaxHeaderBytes, 0, maxMetadata)
	c.StreamWindow = orDefault(c.StreamWindow, DefaultStreamWindow, wire.InitialStreamWindow, 16<<20)
	c.ConnWindow = orDefault(c.ConnWindow, DefaultConnWindow, wire.InitialConnWindow, 1<<30)
	c.ConnectTimeout = orDefault(c.ConnectTimeout, defaultConnectTimeout, 0, 0)
	c.Keepalive.setDefaults()
	if c.Backoff == (backoff.Config{}) {
		c.Backoff = defaultBackoff
	}
	if c.Authority == "" {
		c.Authority = "localhost"
		if c.TLS != nil && c.TLS.ServerName != "" {
			c.Authority = c.TLS.ServerName
		}
	}
	if c.Spin == 0 {
		c.Spin = DefaultSpin
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}

const defaultConnectTimeout = 20 * time.Second
