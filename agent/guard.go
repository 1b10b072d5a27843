//go:build linux

package agent

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/fault"
	"github.com/vsockrpc/vsockrpc/transport"
)

// A guard applies the access rules to connections and calls. It is the only
// place that does.
type guard struct {
	rules access.Rules
	log   *slog.Logger
	// open counts the streams of callers who are not trusted. Health.Watch
	// never ends by itself, so they are bounded.
	open atomic.Int32
	// stopping ends the streams of Open methods when the agent shuts down: no
	// work is lost with them, and it would wait for them in vain.
	stopping context.Context
	stop     context.CancelFunc

	refusals refusalLog
}

// maxUntrustedStreams bounds the streams that callers who are not trusted have
// open, all together.
const maxUntrustedStreams = 64

func newGuard(rules access.Rules, log *slog.Logger) *guard {
	g := &guard{rules: rules, log: log}
	g.stopping, g.stop = context.WithCancel(context.Background())
	return g
}

// decide returns the decision on the caller of ctx, and who it is.
func (g *guard) decide(ctx context.Context) (access.Decision, transport.Peer) {
	var who transport.Peer
	if p, ok := peer.FromContext(ctx); ok {
		who = access.PeerOf(p.AuthInfo)
	}
	d := g.rules.Decide(who)
	// Who may not even connect is not trusted, whatever else is said.
	d.Trusted = d.Trusted && d.Connect
	return d, who
}

// check decides on a call. It returns the context that the handler gets, or
// the error that the caller gets instead.
func (g *guard) check(ctx context.Context, method string) (context.Context, access.Decision, error) {
	d, who := g.decide(ctx)
	if !d.Trusted && !access.ClassOf(method).Anybody() {
		g.refused(ctx, method, d, who)
		return nil, d, refusal(method, d)
	}
	return context.WithValue(ctx, decisionKey{}, d), d, nil
}

type decisionKey struct{}

// decisionOf returns the decision on the caller of ctx: without one, nobody is
// trusted.
func decisionOf(ctx context.Context) access.Decision {
	d, _ := ctx.Value(decisionKey{}).(access.Decision)
	return d
}

// refusal is the status that a caller gets who is not trusted.
func refusal(method string, d access.Decision) error {
	return fault.New(codes.PermissionDenied, "refused", "the guest's agent refuses this caller (rule %s): %s", d.Rule, d.Remedy).
		On(method, "", nil).Hint(d.Remedy)
}

// unary is the interceptor over all unary methods.
func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, _, err := g.check(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// stream is the interceptor over all other methods.
func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, d, err := g.check(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if !d.Trusted {
		defer g.open.Add(-1)
		if g.open.Add(1) > maxUntrustedStreams {
			return fault.New(codes.ResourceExhausted, "too-many-streams", "callers who are not trusted have %d streams open already", maxUntrustedStreams).
				On(info.FullMethod, "", nil).Hint(d.Remedy)
		}
	}
	if access.ClassOf(info.FullMethod) == access.Open {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(g.stopping, cancel)()
	}
	err = handler(srv, &guardedStream{ServerStream: ss, ctx: ctx})
	if err != nil && ctx.Err() != nil && ss.Context().Err() == nil {
		return fault.New(codes.Unavailable, "agent-stopping", "the guest's agent is shutting down").On(info.FullMethod, "", nil)
	}
	return err
}

// guardedStream has the decision in its context.
type guardedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *guardedStream) Context() context.Context { return s.ctx }

// refused logs a refused call or connection, seldom enough that a peer cannot
// fill the log.
func (g *guard) refused(ctx context.Context, method string, d access.Decision, who transport.Peer) {
	if n, ok := g.refusals.next(time.Now()); ok {
		g.log.WarnContext(ctx, "refused", "peer", who.String(), "method", method, "rule", d.Rule, "remedy", d.Remedy, "unlogged_before", n)
	}
}

// refusalLog lets one record through in each interval and counts the others.
type refusalLog struct {
	last    atomic.Int64 // Unix nanoseconds
	skipped atomic.Int64
}

const refusalInterval = 10 * time.Second

// next reports whether to log now, and how many were not logged before.
func (r *refusalLog) next(now time.Time) (skipped int64, ok bool) {
	last := r.last.Load()
	if now.UnixNano()-last < int64(refusalInterval) || !r.last.CompareAndSwap(last, now.UnixNano()) {
		r.skipped.Add(1)
		return 0, false
	}
	return r.skipped.Swap(0), true
}

// guardedListener drops the connections of peers who may not call at all.
type guardedListener struct {
	net.Listener
	guard *guard
}

// Accept returns the next connection of a peer who may have one.
func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var who transport.Peer
		if c, ok := conn.(interface{ AuthInfo() credentials.AuthInfo }); ok {
			who = access.PeerOf(c.AuthInfo())
		}
		d := l.guard.rules.Decide(who)
		if d.Connect {
			return conn, nil
		}
		conn.Close()
		l.guard.refused(context.Background(), "", d, who)
	}
}
