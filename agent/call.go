//go:build linux

package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/audit"
	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// call is one call on its way through the guard.
type call struct {
	guard   *guard
	who     *caller
	method  string
	start   time.Time
	what    policy.Call     // once it was decided on, if anybody wants to know
	verdict policy.Decision // once it was decided on
	confine *file.Confinement
	in, out atomic.Uint64 // bytes of messages, if anybody wants to know
}

// decide asks the policy about the call with its first message, which is nil if
// there is none yet.
func (c *call) decide(ctx context.Context, req any) error {
	g := c.guard
	p, _ := g.policy.Get()
	ruled := p != nil || len(c.who.roles) > 0
	if !ruled && g.audit == nil {
		return nil
	}
	c.what = policy.CallOf(c.method, req)
	if err := c.what.Check(); err != nil {
		c.what = policy.Call{Method: c.method}
		return err
	}
	if !ruled {
		return nil
	}
	who := c.who.policyCaller()
	c.own()
	c.verdict = p.Decide(who, c.what, g.worldOf(ctx))
	if err := ctx.Err(); err != nil {
		// What was not looked at in the end counts for nothing.
		return status.FromContextError(err).Err()
	}
	if !c.verdict.Allowed {
		return denial(c.method, c.verdict)
	}
	if c.verdict.WouldRefuse {
		g.log.Warn("policy: would be refused", "peer", c.who.peer.String(), "key", c.who.key, "method", c.method, "rule", c.verdict.Rule, "text", c.verdict.Text)
	}
	if c.verdict.Dirs != nil {
		c.confine.Confine(c.verdict.Dirs)
	}
	c.bound(req)
	if c.what.Program && c.what.SessionID != "" {
		g.owners.set(c.what.SessionID, c.who.identity())
	}
	return nil
}

// own finds out whose session the call is about. An Exec or Start of a session
// that somebody else has started does not start anything: it attaches.
func (c *call) own() {
	id := c.what.SessionID
	if id == "" {
		return
	}
	owner, known := c.guard.owners.get(id)
	c.what.OwnSession = known && owner == c.who.identity()
	if c.what.Program && !c.what.OwnSession && c.guard.sessionExists(id) {
		c.what = policy.Call{Method: guestv1.ProcessService_Attach_FullMethodName, SessionID: id}
	}
}

// bound fixes how a program runs where the rule that allows it says so: its time
// limit is lowered to the budget, since it may outlive the call, and it writes no
// core file.
func (c *call) bound(req any) {
	if !c.what.Program {
		return
	}
	spec := specOf(req)
	if spec == nil {
		return
	}
	if t := c.verdict.MaxTime; t > 0 {
		limit := uint64(max(t.Milliseconds(), 1))
		if spec.TimeoutMillis == 0 || spec.TimeoutMillis > limit {
			spec.TimeoutMillis = limit
		}
	}
	if c.verdict.NoCore && writesCores() {
		if spec.Limits == nil {
			spec.Limits = &guestv1.ResourceLimits{}
		}
		spec.Limits.Rlimits = append(spec.Limits.Rlimits, &guestv1.Rlimit{Name: "core"})
	}
}

// writesCores reports whether what the agent starts may write core files, unless
// it is told otherwise.
func writesCores() bool {
	var l unix.Rlimit
	return unix.Getrlimit(unix.RLIMIT_CORE, &l) != nil || l.Cur > 0
}

// specOf returns the program that a first message starts, nil if it starts none.
func specOf(req any) *guestv1.SessionSpec {
	if f, ok := req.(*bulk.Frame); ok {
		req = f.Control
	}
	m, ok := req.(proto.Message)
	if !ok || m == nil {
		return nil
	}
	switch m := m.ProtoReflect().Interface().(type) {
	case *guestv1.ExecRequest:
		return m.GetOpen().GetSpec()
	case *guestv1.StartRequest:
		return m.GetSpec()
	}
	return nil
}

// count adds a message to a counter. It returns an error if that is beyond the
// call's budget.
func (c *call) count(counter *atomic.Uint64, m any) error {
	limit := c.verdict.MaxBytes
	if limit == 0 && c.guard.audit == nil {
		return nil
	}
	counter.Add(size(m))
	if limit > 0 && c.in.Load()+c.out.Load() > limit {
		return fault.New(codes.ResourceExhausted, "budget", "the call has moved more than the %d bytes that the policy gives it (rule %s)", limit, c.verdict.Rule).
			On(c.method, "", nil).Hint("raise max_bytes of the role, or copy in parts")
	}
	return nil
}

func (c *call) overTime() *fault.Error {
	return fault.New(codes.ResourceExhausted, "budget", "the call has taken longer than the %v that the policy gives it (rule %s)", c.verdict.MaxTime, c.verdict.Rule).
		On(c.method, "", nil).Hint("raise max_time of the role")
}

// end writes the audit record of a call that has ended with err.
func (c *call) end(err error) {
	g := c.guard
	if g.audit == nil || access.ClassOf(c.method) == access.Open {
		return
	}
	if !c.who.decision.Trusted && !g.auditRate.take(time.Now()) {
		return
	}
	now := time.Now()
	r := audit.Record{
		Time: now, Peer: auditPeer(c.who), Key: c.who.key, Name: c.who.name, Rule: c.who.decision.Rule,
		Policy: c.verdict.Rule, WouldRefuse: c.verdict.WouldRefuse,
		Method: c.method, Args: c.what.Args, Env: c.what.EnvNames(), User: c.what.User,
		Paths:   slices.Concat(c.what.Reads, c.what.Writes),
		Session: hex.EncodeToString([]byte(c.what.SessionID)),
		BytesIn: c.in.Load(), BytesOut: c.out.Load(), Seconds: now.Sub(c.start).Seconds(),
		Code: status.Code(err).String(),
	}
	if c.what.Network != "" || c.what.Address != "" {
		r.Address = c.what.Network + ":" + c.what.Address
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		r.Reason = f.Reason()
	}
	g.audit.Write(r)
}

func auditPeer(who *caller) audit.Peer {
	p := audit.Peer{Network: who.peer.Network, CID: who.peer.CID, Port: who.peer.Port, PID: who.peer.PID}
	if who.peer.HasCreds {
		p.UID = &who.peer.UID
	}
	return p
}

// rate lets so many records through in each second.
type rate struct {
	mu     sync.Mutex
	second int64
	n      int
}

// maxAuditedRefusals bounds the records of callers who are not trusted, in each
// second: they must not push those of others out of the file.
const maxAuditedRefusals = 20

func (r *rate) take(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := now.Unix(); s != r.second {
		r.second, r.n = s, 0
	}
	r.n++
	return r.n <= maxAuditedRefusals
}

// owners remembers who has started which session.
type owners struct {
	mu    sync.Mutex
	of    map[string]string
	order []string
}

// maxOwners bounds what is remembered. Whoever is forgotten cannot attach to an
// own session again, if only rules about programs allow it.
const maxOwners = 16384

func (o *owners) get(id string) (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	owner, ok := o.of[id]
	return owner, ok
}

func (o *owners) set(id, owner string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.of[id]; ok {
		return // the first one has it
	}
	if o.of == nil {
		o.of = make(map[string]string)
	}
	if len(o.order) >= maxOwners {
		delete(o.of, o.order[0])
		o.order = o.order[1:]
	}
	o.of[id] = owner
	o.order = append(o.order, id)
}

// keyedStreams are the open streams of callers with keys: they end when the key
// is revoked.
type keyedStreams struct {
	mu      sync.Mutex
	streams map[*keyedStream]bool
	ticking bool
}

type keyedStream struct {
	who    *caller
	cancel context.CancelCauseFunc
}

// revocationInterval is how long a call may outlive its caller's key.
const revocationInterval = 2 * time.Second

// add watches over a stream until the function that it returns is called.
func (k *keyedStreams) add(g *guard, who *caller, cancel context.CancelCauseFunc) func() {
	s := &keyedStream{who, cancel}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.streams == nil {
		k.streams = make(map[*keyedStream]bool)
	}
	k.streams[s] = true
	if !k.ticking {
		k.ticking = true
		time.AfterFunc(revocationInterval, func() { k.sweep(g) })
	}
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.streams, s)
	}
}

// sweep ends the streams whose keys are not known any more.
func (k *keyedStreams) sweep(g *guard) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for s := range k.streams {
		if s.who.decision.Rule != access.RuleKey {
			continue
		}
		if _, status := g.hosts.Lookup(s.who.public); status != access.KeyKnown {
			s.cancel(fault.New(codes.Unauthenticated, "refused", "the key %s is not known any more", s.who.key).
				Hint("make another key, and have it enrolled"))
		}
	}
	k.ticking = len(k.streams) > 0
	if k.ticking {
		time.AfterFunc(revocationInterval, func() { k.sweep(g) })
	}
}

// guestWorld is this guest, as policies need to know it.
func guestWorld() policy.World {
	var files account.Files
	return policy.World{
		UserID: func(user string) (uint32, error) {
			a, err := files.Find(user, "")
			return a.UID, err
		},
		GroupID: files.GroupID,
		Resolve: resolve,
	}
}
