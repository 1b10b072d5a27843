package guest

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// DefaultReconnect bounds the attempts to reconnect after a connection was lost.
const DefaultReconnect = 60 * time.Second

// Wire is the protocol spoken with the agent. Both have the same services on
// the same port.
type Wire string

// The wires.
const (
	WireNative Wire = "native" // that of package rpc; the default
	WireGRPC   Wire = "grpc"   // stock gRPC over HTTP/2
)

// PrivilegedPort says whether to dial native vsock from a port below 1024,
// which shows the agent that this is a process of the host's root. An agent's
// default is to serve no other.
type PrivilegedPort int

// The values of PrivilegedPort.
const (
	PrivilegedPortAuto   PrivilegedPort = iota // where this process may: the default
	PrivilegedPortNever                        // from an ordinary port
	PrivilegedPortAlways                       // or fail
)

// Config holds the options of Dial. The zero value, or a nil pointer, is the
// default. It is not changed, and must not be while the Guest is in use.
//
// A lost connection is only used again once its other end has shown to be the guest
// that answered Dial, before anything else is sent. Where keys are used, it is known
// by its key, whatever the target. Otherwise it must be in the same boot (boot id), or
// a later one of a guest with the same machine id, and a copy goes on in the same boot
// only. All else is an [*Error] with ReasonOtherGuest. Copies of one snapshot, and
// guests that lie, are told apart by keys alone.
type Config struct {
	// File holds the guests that a target can name. If it is nil, the user's
	// own file (DefaultConfigFile) is read when the target is a name.
	File *ConfigFile

	// Dialer, if not nil, makes the connections, each call a new one; the
	// target is then only a label.
	Dialer func(ctx context.Context) (net.Conn, error)

	// User is the user of the guest whose commands and files they are, in place of
	// the one that the target or the configuration file names.
	User string

	// Wire is the protocol; empty means WireNative.
	Wire Wire

	// PrivilegedPort says which vsock port to dial from.
	PrivilegedPort PrivilegedPort

	// Trust says by which keys this side and the guest know each other. nil:
	// there are none.
	Trust *Trust

	// TLS, if not nil, is spoken with the guest, in the place of what Trust
	// says. ServerName, or InsecureSkipVerify with VerifyConnection, must be set
	// in it.
	TLS *tls.Config

	// Reconnect bounds the attempts to reconnect of what goes on after a lost
	// connection: commands, copies, listeners, and calls that only read
	// (docs/reliability.md lists them). 0 means DefaultReconnect, less than 0 not at
	// all. The context of a call bounds it too.
	Reconnect time.Duration

	// MaxBuffered bounds the bytes of connections made in the guest that were
	// received and that nobody has read yet: when they come to that, a connection
	// that holds more breaks. On the native wire, it also bounds what the guest may
	// send ahead on all calls together. 0 means 64 MiB, the least is 1 MiB.
	MaxBuffered int

	// UnaryInterceptors and StreamInterceptors see the calls of this package and those
	// of Guest.Conn, on either wire; the first is outermost. They get nil for their
	// *grpc.ClientConn. Of streams some messages are not protobuf messages. They do
	// not see the calls by which a new connection is checked.
	UnaryInterceptors  []grpc.UnaryClientInterceptor
	StreamInterceptors []grpc.StreamClientInterceptor
	// StatsHandlers are told of every call and every connection, with the size of each
	// message, as gRPC's stats handlers are.
	StatsHandlers []stats.Handler

	// OnConnect is called after Dial has succeeded, and after each connection that
	// replaces a lost one has shown to be the same guest's; with what the agent said
	// of itself there. OnLost is called after such a connection is lost. Either may be
	// nil.
	//
	// They are called in turns, OnConnect first, by one goroutine at a time that is
	// none of the caller's: the first call may come before Dial returns. They may
	// block and may use the Guest, its Close too; what is lost and re-established
	// meanwhile is told afterwards in one call each. A connection is re-established by
	// the next call that needs it, not by itself. No call begins after Close has
	// returned.
	OnConnect func(g *Guest, info *guestv1.InfoResponse)
	OnLost    func(g *Guest)

	// Logger, if not nil, is told of lost connections at info level, and of every dial
	// at debug level. Each record has the guest's target as "guest", and the id of the
	// session it is about as "session".
	Logger *slog.Logger
}

func (c *Config) reconnect() time.Duration {
	switch {
	case c.Reconnect == 0:
		return DefaultReconnect
	case c.Reconnect < 0:
		return 0
	}
	return c.Reconnect
}

// defaultBuffered is MaxBuffered's default.
const defaultBuffered = 64 << 20

func (c *Config) maxBuffered() int {
	if c.MaxBuffered == 0 {
		return defaultBuffered
	}
	return max(c.MaxBuffered, 1<<20)
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}
