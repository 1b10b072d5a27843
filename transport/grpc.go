package transport

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
)

// Times of NewGRPCClient, chosen for guests.
const (
	// A guest boots in well under a second to a minute: grpc-go's own backoff
	// (1 s up to 120 s) would be most of the time to the first answer.
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second

	// tryTimeout limits one attempt, HTTP/2 preface included.
	tryTimeout = 2 * time.Second

	// A stock gRPC server closes connections whose pings come more often than
	// every 5 minutes.
	keepaliveTime    = 6 * time.Minute
	keepaliveTimeout = 20 * time.Second
)

// NewGRPCClient returns a stock grpc-go client for an address that ParseAddr
// takes. Like grpc.NewClient it does not connect before the first call. Its
// connections are made by Dial, always with a new socket; a failed attempt is
// repeated after 50 ms, at last every second, as suits a guest that boots (a
// call with grpc.WaitForReady waits for that). The :authority of its calls is
// always "localhost", for which a TLS server needs a certificate unless the
// options say otherwise.
//
// The options given are applied after, and so override, these defaults:
// WithResolvers(ResolverBuilders()), WithContextDialer(ContextDialer(nil)),
// WithTransportCredentials(NewCredentials()), WithConnectParams,
// WithKeepaliveParams (pings only while calls are open, so that an idle guest
// may be paused) and WithNoProxy. No global default of grpc-go is changed.
//
// An error in target is an [*Error] of KindBadAddress. The caller must Close
// the client.
func NewGRPCClient(target string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	a, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	defaults := []grpc.DialOption{
		grpc.WithResolvers(ResolverBuilders()...),
		grpc.WithContextDialer(ContextDialer(nil)),
		grpc.WithTransportCredentials(NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  minBackoff,
				Multiplier: 1.6,
				Jitter:     0.2,
				MaxDelay:   maxBackoff,
			},
			MinConnectTimeout: tryTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:    keepaliveTime,
			Timeout: keepaliveTimeout,
		}),
	}
	return grpc.NewClient(targetURL(a), append(defaults, opts...)...)
}

// parseTarget parses an address and checks that it can be dialed.
func parseTarget(s string) (Addr, error) {
	a, err := ParseAddr(s)
	if err != nil {
		return Addr{}, err
	}
	if err := checkDial(a, &DialConfig{}); err != nil {
		return Addr{}, &Error{Op: "dial", Kind: KindBadAddress, Addr: a, Err: err}
	}
	return a, nil
}

// targetURL spells a so that grpc-go, which parses targets as URLs, gives it to
// the resolver unchanged, whatever bytes the path has.
func targetURL(a Addr) string {
	rest := strings.TrimPrefix(a.String(), a.Net+":")
	u := url.URL{Scheme: a.Net, Path: rest, OmitHost: true}
	if !strings.HasPrefix(rest, "/") {
		u = url.URL{Scheme: a.Net, Opaque: url.PathEscape(rest)}
	}
	return u.String()
}

// ContextDialer returns a dialer for grpc.WithContextDialer that takes the
// addresses of ParseAddr and makes connections with Dial. A nil cfg means the
// defaults. It also serves as the dial function of other libraries.
func ContextDialer(cfg *DialConfig) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		a, err := ParseAddr(addr)
		if err != nil {
			return nil, err
		}
		c, err := Dial(ctx, a, cfg)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}

// Dialer returns a function that dials addr, an address of ParseAddr, such as package
// rpc's NewClient takes. A nil cfg means the defaults. An address that cannot be parsed
// fails with each dial.
func Dialer(addr string, cfg *DialConfig) func(ctx context.Context) (net.Conn, error) {
	dial := ContextDialer(cfg)
	return func(ctx context.Context) (net.Conn, error) { return dial(ctx, addr) }
}

// ResolverBuilders returns resolvers for the schemes vsock, vsock-mux and
// unix, for grpc.WithResolvers together with WithContextDialer(ContextDialer).
// A target is the address as ParseAddr takes it, but grpc-go reads it as a
// URL: '%', '?' and '#' in a path have to be escaped. NewGRPCClient does that
// itself.
func ResolverBuilders() []resolver.Builder {
	return []resolver.Builder{resolverBuilder(NetworkVsock), resolverBuilder(NetworkMux), resolverBuilder(NetworkUnix)}
}

// A resolverBuilder resolves the targets of the scheme that it is named by.
type resolverBuilder string

var _ interface {
	resolver.Builder
	resolver.AuthorityOverrider
} = resolverBuilder("")

func (b resolverBuilder) Scheme() string { return string(b) }

// OverrideAuthority returns the :authority of calls, the same for every guest,
// as a path is no valid one and a CID is no lasting name.
func (resolverBuilder) OverrideAuthority(resolver.Target) string { return "localhost" }

// Build resolves the target to one address, which never changes. It is given
// to the dialer as a string with the scheme, so that nothing else has to reach
// the dialer.
func (b resolverBuilder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	s, err := targetString(target.URL)
	if err != nil {
		return nil, &Error{Op: "parse", Kind: KindBadAddress, Err: err}
	}
	a, err := parseTarget(s)
	if err != nil {
		return nil, err
	}
	err = cc.UpdateState(resolver.State{Endpoints: []resolver.Endpoint{
		{Addresses: []resolver.Address{{Addr: a.String()}}},
	}})
	return nopResolver{}, err
}

// targetString undoes url.Parse. Target.Endpoint is of no use here: it takes
// the leading slash off a path.
func targetString(u url.URL) (string, error) {
	switch {
	case u.Host != "":
		return u.Scheme + "://" + u.Host + u.Path, nil // refused with a hint by ParseAddr
	case u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("'?' or '#' in a target: escape them as %3F and %23, or use NewGRPCClient")
	case u.Opaque == "":
		return u.Scheme + ":" + u.Path, nil
	}
	path, err := url.PathUnescape(u.Opaque)
	return u.Scheme + ":" + path, err
}

type nopResolver struct{}

func (nopResolver) ResolveNow(resolver.ResolveNowOptions) {}
func (nopResolver) Close()                                {}

// NewCredentials returns transport credentials for a gRPC client or server
// whose AuthInfo is the [AuthInfo] of the connection, with the peer in it.
// They add nothing to the bytes on the wire and claim no security, so that
// grpc-go refuses to send secrets (per-RPC credentials that require privacy)
// over them.
func NewCredentials() credentials.TransportCredentials { return peerCredentials{} }

type peerCredentials struct{}

func (peerCredentials) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, authInfoOf(conn), nil
}

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, authInfoOf(conn), nil
}

// Info says "insecure" by grpc-go's own name, by which it refuses per-RPC
// credentials that need security when the client is made, not at each call.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}

func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

func (peerCredentials) OverrideServerName(string) error { return nil }
