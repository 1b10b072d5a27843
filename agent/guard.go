//go:build linux

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/audit"
	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/agent/forward"
	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
	"github.com/vsockrpc/vsockrpc/transport"
)

// A guard applies the access rules to connections, and the rules and the policy
// to calls. It is the only place that does.
type guard struct {
	rules       access.Rules
	hosts       *access.Hosts
	requireKeys bool
	ownTLS      bool
	locked      string // why nothing but health is served; empty: all is
	policy      *policy.File
	audit       *audit.Log
	world       policy.World // but for the paths of files: worldOf
	filesRoot   string       // what / is to the file service
	log         *slog.Logger
	// sessionOwner returns who has started a session that the agent has.
	sessionOwner func(id string) (owner string, exists bool)
	calls        *charge.Pool // that are open, of callers who are trusted
	kept         *charge.Pool // bytes that they hold
	numbers      atomic.Uint64
	// strangers counts the streams of callers who are not trusted. Health.Watch
	// never ends by itself, so they are bounded.
	strangers atomic.Int32
	// stopping ends the streams of Open methods when the agent shuts down: no
	// work is lost with them, and it would wait for them in vain.
	stopping context.Context
	stop     context.CancelFunc

	refusals refusalLog
	open     openCalls
	records
}

// maxUntrustedStreams bounds the streams that callers who are not trusted have
// open, all together.
const maxUntrustedStreams = 64

func newGuard(cfg *Config, agentID string, log *slog.Logger) *guard {
	g := &guard{rules: cfg.Access, hosts: cfg.Hosts, requireKeys: cfg.RequireKeys, ownTLS: cfg.TLS != nil, locked: cfg.Locked, policy: cfg.Policy, audit: cfg.Audit, world: guestWorld(), filesRoot: filesRoot(cfg), log: log,
		calls: charge.NewPool(maxCalls), kept: charge.NewPool(maxKept), records: newRecords(agentID)}
	g.stopping, g.stop = context.WithCancel(context.Background())
	g.open = openCalls{guard: g, interval: cfg.RecheckInterval}
	if g.open.interval <= 0 {
		g.open.interval = recheckInterval
	}
	return g
}

// filesRoot returns what / is to the file service.
func filesRoot(cfg *Config) string {
	if cfg.File == nil || cfg.File.Root == "" {
		return "/"
	}
	return cfg.File.Root
}

// check decides whether a caller may call a method at all. It returns the
// context that the handler gets, or the error that the caller gets instead. The
// caller of check ends a call with end.
func (g *guard) check(ctx context.Context, method string) (context.Context, *call, error) {
	c := &call{guard: g, info: authInfoOf(ctx), method: method, start: time.Now(), number: g.numbers.Add(1)}
	err := c.identify()
	c.account = g.account(c.who)
	if err == nil && c.who.decision.Trusted {
		if r := g.calls.Take(c.account, 1); r != nil {
			err = tooManyCalls(method, r)
		} else {
			c.charged = true
		}
	}
	if err != nil {
		if !c.who.decision.Trusted {
			g.refused(ctx, method, c.who.decision, c.who.peer)
		}
		c.end(err)
		return nil, nil, err
	}
	ctx = charge.With(ctx, c.account)
	ctx, c.confine = file.WithConfinement(ctx)
	ctx, c.sockets = forward.WithHold(ctx)
	ctx, c.reach = process.WithReach(ctx)
	ctx = context.WithValue(ctx, callerKey{}, c.who)
	ctx, c.cancel = context.WithCancelCause(ctx)
	if !access.ClassOf(method).Anybody() {
		g.open.add(c)
	}
	return ctx, c, nil
}

// finish ends a call that check has let through, and returns what the caller gets.
func (c *call) finish(err error) error {
	c.guard.open.remove(c)
	if why := c.stopped(); why != nil && err != nil {
		err = why
	}
	c.end(err)
	c.cancel(nil)
	if c.charged {
		c.guard.calls.Give(c.account, 1)
		c.guard.kept.Give(c.account, c.kept)
	}
	return err
}

// refusal is the status that a caller gets who is not trusted.
func refusal(method string, d access.Decision) error {
	return fault.New(codes.Unauthenticated, "refused", "the guest's agent does not trust this caller (rule %s): %s", d.Rule, d.Remedy).
		On(method, "", nil).Hint(d.Remedy)
}

// misconfigured is the status that everybody gets whose call is not about health,
// while it is not known who may call.
func misconfigured(method, why string) error {
	return fault.New(codes.FailedPrecondition, "misconfigured", "the guest's agent serves health alone, since it is not known who may call: %s", why).
		On(method, "", nil).Hint("mend the setting in the guest, or on its kernel's command line, and start the agent again")
}

// denial is the status that a trusted caller gets for what the policy, or the
// profile of its key, does not allow.
func denial(method string, d policy.Decision) error {
	return fault.New(codes.PermissionDenied, "denied", "%s (rule %s)", d.Text, d.Rule).On(method, "", nil).Hint(d.Remedy)
}

// unary is the interceptor over all unary methods.
func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, c, err := g.check(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	resp, err := c.unary(ctx, req, handler)
	if err = c.finish(err); err != nil {
		return nil, err
	}
	return resp, nil
}

func (c *call) unary(ctx context.Context, req any, handler grpc.UnaryHandler) (any, error) {
	if err := c.decide(ctx, req); err != nil {
		return nil, err
	}
	if err := c.count(&c.in, req); err != nil {
		return nil, err
	}
	resp, err := handler(ctx, req)
	if err == nil {
		err = c.count(&c.out, resp)
	}
	return resp, err
}

// stream is the interceptor over all other methods.
func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, c, err := g.check(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return c.finish(c.stream(ctx, srv, ss, handler))
}

func (c *call) stream(ctx context.Context, srv any, ss grpc.ServerStream, handler grpc.StreamHandler) error {
	g := c.guard
	// The call's own may change meanwhile.
	if who := callerIn(ctx); !who.decision.Trusted {
		defer g.strangers.Add(-1)
		if g.strangers.Add(1) > maxUntrustedStreams {
			return fault.New(codes.ResourceExhausted, "too-many-streams", "callers who are not trusted have %d streams open already", maxUntrustedStreams).
				On(c.method, "", nil).Hint(who.decision.Remedy)
		}
	}
	if access.ClassOf(c.method) == access.Open {
		defer context.AfterFunc(g.stopping, func() {
			c.stop(fault.New(codes.Unavailable, "agent-stopping", "the guest's agent is shutting down").On(c.method, "", nil))
		})()
	}
	err := c.handle(ctx, srv, &guardedStream{ServerStream: ss, ctx: ctx, call: c}, handler)
	if why := c.stopped(); why != nil {
		return why
	}
	return err
}

// lastAnswer is how long the handler of a stream that was stopped has to return by
// itself. It may be waiting for a client that neither sends nor reads.
const lastAnswer = 100 * time.Millisecond

// handle runs the handler of a stream, on a goroutine of its own: when handle
// returns, the stream ends, and the handler with it if it has not returned.
func (c *call) handle(ctx context.Context, srv any, gs *guardedStream, handler grpc.StreamHandler) error {
	var err error
	var crash any
	done := make(chan struct{})
	go func() {
		returned := false
		defer func() {
			if !returned {
				if crash = recover(); crash == nil {
					crash = "the handler ended its goroutine"
				}
				crash = fmt.Sprintf("%v\n%s", crash, debug.Stack())
			}
			close(done)
		}()
		err = handler(srv, gs)
		returned = true
	}()
	select {
	case <-done:
	case <-ctx.Done():
		if c.stopped() == nil {
			<-done // the client has gone, which the stream knows itself
			break
		}
		select {
		case <-done:
		case <-time.After(lastAnswer):
			return c.stopped()
		}
	}
	if crash != nil {
		panic(crash) // the server makes an answer of it
	}
	return err
}

// guardedStream asks the policy about the first message, and counts all.
type guardedStream struct {
	grpc.ServerStream
	ctx  context.Context
	call *call
	once sync.Once
}

// Context returns the context with the caller in it.
func (s *guardedStream) Context() context.Context { return s.ctx }

// RecvMsg receives a message and, if it is the first, asks about it.
func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.pass(&s.call.in, m)
}

// SendMsg sends a message. A handler that sends before it receives has its
// method asked about.
func (s *guardedStream) SendMsg(m any) error {
	if err := s.pass(&s.call.out, m); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *guardedStream) pass(counter *atomic.Uint64, m any) error {
	s.once.Do(func() {
		req := m
		if counter != &s.call.in {
			req = nil
		}
		if err := s.call.decide(s.ctx, req); err != nil {
			s.call.stop(err)
		}
	})
	if err := s.call.count(counter, m); err != nil {
		s.call.stop(err)
	}
	return s.call.stopped()
}

// size returns about how large a message is on the wire.
func size(m any) uint64 {
	switch m := m.(type) {
	case *bulk.Frame:
		if m.IsData() {
			return uint64(len(m.Data))
		}
		return uint64(proto.Size(m.Control))
	case proto.Message:
		return uint64(proto.Size(m))
	}
	return 0
}

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

// guardedListener drops the connections of peers who may not call at all, and
// notes on the others which face they have come to.
type guardedListener struct {
	net.Listener
	guard *guard
	face  access.Face
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
			if l.face != access.FaceAll {
				conn = onFace(conn, l.face)
			}
			return conn, nil
		}
		conn.Close()
		l.guard.refused(context.Background(), "", d, who)
	}
}
