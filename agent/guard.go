//go:build linux

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
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
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/policy"
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
	policy      *policy.File
	audit       *audit.Log
	world       policy.World
	log         *slog.Logger
	// sessionExists tells whether the agent has a session.
	sessionExists func(id string) bool
	owners        owners
	// open counts the streams of callers who are not trusted. Health.Watch
	// never ends by itself, so they are bounded.
	open atomic.Int32
	// stopping ends the streams of Open methods when the agent shuts down: no
	// work is lost with them, and it would wait for them in vain.
	stopping context.Context
	stop     context.CancelFunc

	refusals  refusalLog
	auditRate rate
	keyed     keyedStreams
}

// maxUntrustedStreams bounds the streams that callers who are not trusted have
// open, all together.
const maxUntrustedStreams = 64

func newGuard(cfg *Config, log *slog.Logger) *guard {
	g := &guard{rules: cfg.Access, hosts: cfg.Hosts, requireKeys: cfg.RequireKeys, ownTLS: cfg.TLS != nil, policy: cfg.Policy, audit: cfg.Audit, world: guestWorld(), log: log}
	g.stopping, g.stop = context.WithCancel(context.Background())
	return g
}

// check decides whether a caller may call a method at all. It returns the
// context that the handler gets, or the error that the caller gets instead.
func (g *guard) check(ctx context.Context, method string) (context.Context, *call, error) {
	who := g.callerOf(ctx)
	c := &call{guard: g, who: &who, method: method, start: time.Now()}
	if !who.decision.Trusted && !access.ClassOf(method).Anybody() {
		g.refused(ctx, method, who.decision, who.peer)
		err := refusal(method, who.decision)
		c.end(err)
		return nil, nil, err
	}
	if !who.face.Has(access.ClassOf(method)) {
		err := otherFace(method, who.face)
		c.end(err)
		return nil, nil, err
	}
	ctx, c.confine = file.WithConfinement(ctx)
	return context.WithValue(ctx, callerKey{}, &who), c, nil
}

// refusal is the status that a caller gets who is not trusted.
func refusal(method string, d access.Decision) error {
	return fault.New(codes.Unauthenticated, "refused", "the guest's agent does not trust this caller (rule %s): %s", d.Rule, d.Remedy).
		On(method, "", nil).Hint(d.Remedy)
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
	c.end(err)
	return resp, err
}

func (c *call) unary(ctx context.Context, req any, handler grpc.UnaryHandler) (any, error) {
	if err := c.decide(ctx, req); err != nil {
		return nil, err
	}
	if err := c.count(&c.in, req); err != nil {
		return nil, err
	}
	if t := c.verdict.MaxTime; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, t, c.overTime())
		defer cancel()
	}
	resp, err := handler(ctx, req)
	if err == nil {
		err = c.count(&c.out, resp)
	}
	if err != nil {
		return nil, c.ended(ctx, err)
	}
	return resp, nil
}

// stream is the interceptor over all other methods.
func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, c, err := g.check(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	err = c.stream(ctx, srv, ss, handler)
	c.end(err)
	return err
}

func (c *call) stream(ctx context.Context, srv any, ss grpc.ServerStream, handler grpc.StreamHandler) error {
	g := c.guard
	if !c.who.decision.Trusted {
		defer g.open.Add(-1)
		if g.open.Add(1) > maxUntrustedStreams {
			return fault.New(codes.ResourceExhausted, "too-many-streams", "callers who are not trusted have %d streams open already", maxUntrustedStreams).
				On(c.method, "", nil).Hint(c.who.decision.Remedy)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if access.ClassOf(c.method) == access.Open {
		defer context.AfterFunc(g.stopping, func() {
			cancel(fault.New(codes.Unavailable, "agent-stopping", "the guest's agent is shutting down").On(c.method, "", nil))
		})()
	}
	if c.who.key != "" && c.who.decision.Trusted {
		defer g.keyed.add(g, c.who, cancel)()
	}
	gs := &guardedStream{ServerStream: ss, ctx: ctx, cancel: cancel, call: c}
	err := handler(srv, gs)
	gs.timer.stop()
	if refused := gs.refusal.Load(); refused != nil {
		return *refused
	}
	return c.ended(ctx, err)
}

// ended returns what a caller is told whose call the guard has ended: why.
func (c *call) ended(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if why, ok := errors.AsType[*fault.Error](context.Cause(ctx)); ok {
		return why
	}
	return err
}

// guardedStream asks the policy about the first message, and counts all.
type guardedStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelCauseFunc
	call   *call
	once   sync.Once
	// refusal is why the call may not go on, whatever the handler makes of it.
	refusal atomic.Pointer[error]
	timer   budgetTimer
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
			s.refuse(err)
			return
		}
		if t := s.call.verdict.MaxTime; t > 0 {
			s.timer.start(t, func() { s.refuse(s.call.overTime()) })
		}
	})
	if err := s.call.count(counter, m); err != nil {
		s.refuse(err)
	}
	if refused := s.refusal.Load(); refused != nil {
		return *refused
	}
	return nil
}

// refuse ends the call.
func (s *guardedStream) refuse(err error) {
	if s.refusal.CompareAndSwap(nil, &err) {
		s.cancel(err)
	}
}

// budgetTimer is a timer that may never start.
type budgetTimer struct {
	mu    sync.Mutex
	timer *time.Timer
	done  bool
}

func (b *budgetTimer) start(d time.Duration, f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.done {
		b.timer = time.AfterFunc(d, f)
	}
}

func (b *budgetTimer) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
	if b.timer != nil {
		b.timer.Stop()
	}
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
