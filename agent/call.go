//go:build linux

package agent

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/agent/forward"
	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// call is one call on its way through the guard.
type call struct {
	guard   *guard
	info    credentials.AuthInfo // of the connection
	method  string
	start   time.Time
	confine *file.Confinement
	sockets *forward.Hold
	reach   *process.Reach
	in, out atomic.Uint64 // bytes of messages, if anybody wants to know
	account charge.Account
	number  uint64 // among the calls of this agent
	charged bool   // it counts as one of the caller's
	kept    int64  // bytes of what that are charged to the caller

	// cancel ends the context of the handler; nil as long as it has none.
	cancel context.CancelCauseFunc
	why    atomic.Pointer[error] // why the call was stopped

	// The rest changes while the call runs, with the keys and the policy.
	mu      sync.Mutex
	who     *caller
	version uint64 // of the keys and the policy, that who and verdict are of
	decided bool   // what and verdict are set
	what    policy.Call
	verdict policy.Decision
	timer   *time.Timer            // stops the call when its time is over; nil: no bound
	over    bool                   // the timer is not needed any more
	detail  string                 // what else its records say
	signal  *guestv1.SignalRequest // if it is one
	begun   bool                   // its beginning was recorded
}

// decide asks the policy about the call with its first message, which is nil if
// there is none yet.
func (c *call) decide(ctx context.Context, req any) error {
	g := c.guard
	c.mu.Lock()
	defer c.mu.Unlock()
	// Who called may have lost its rights since the call began.
	if err := c.identify(); err != nil {
		return err
	}
	if c.lessened() {
		return c.lessFault()
	}
	p, _ := g.policy.Get()
	ruled := p != nil || len(c.who.roles) > 0
	// Also if there is no policy: one may come while the call runs.
	what := policy.CallOf(c.method, req)
	if err := what.Check(); err != nil {
		c.what, c.decided = policy.Call{Method: c.method}, true
		if ruled || g.audit != nil {
			return err
		}
		return nil
	}
	if err := c.keep(what); err != nil {
		return err
	}
	c.what, c.decided = what, true
	c.note(req)
	c.own()
	if !ruled {
		c.begin()
		return nil
	}
	if err := c.rule(ctx, p); err != nil {
		return err
	}
	if c.verdict.Dirs != nil {
		c.confine.Confine(c.verdict.Dirs)
	}
	if len(c.verdict.Denied) > 0 {
		c.confine.Deny(c.verdict.Denied)
	}
	if c.verdict.NoLinks {
		c.sockets.NoLinks()
	}
	if c.verdict.WouldRefuse || strings.Contains(c.verdict.Rule, ".allow[") {
		// The role says that it may, other than with a profile.
		c.reach.All()
	}
	c.bound(req)
	c.begin()
	return nil
}

// lessened reports whether the caller may not do everything any more, and could when
// the call began. mu is held.
func (c *call) lessened() bool { return c.account.Full && !c.guard.account(c.who).Full }

// lessFault is the status of a call that was to show or touch what its caller may not
// see any more.
func (c *call) lessFault() error {
	return fault.New(codes.PermissionDenied, "denied", "the caller's rights have become less while the call was open").On(c.method, "", nil).Hint("call again")
}

// rule asks the policy about what is known of the call. mu is held.
func (c *call) rule(ctx context.Context, p *policy.Policy) error {
	verdict := p.Decide(c.who.policyCaller(), c.what, c.guard.worldOf(ctx))
	if err := ctx.Err(); err != nil {
		// What was not looked at in the end counts for nothing.
		return status.FromContextError(err).Err()
	}
	c.verdict = verdict
	if !verdict.Allowed {
		return denial(c.method, verdict)
	}
	if verdict.WouldRefuse {
		c.guard.log.Warn("policy: would be refused", "peer", c.who.peer.String(), "key", c.who.key, "method", c.method, "rule", verdict.Rule, "text", verdict.Text)
	}
	c.limitTime()
	return nil
}

// keep charges what the policy looks at to the caller, as long as the call is open.
// mu is held.
func (c *call) keep(what policy.Call) error {
	n := int64(what.Size())
	if !c.charged || n <= smallCall {
		return nil
	}
	if r := c.guard.kept.Take(c.account, n); r != nil {
		return tooManyCalls(c.method, r)
	}
	c.kept = n
	return nil
}

// own finds out whose session the call is about. An Exec or Start of a session
// that somebody else has started does not start anything: it attaches.
func (c *call) own() {
	id := c.what.SessionID
	if id == "" {
		return
	}
	owner, exists := c.guard.sessionOwner(id)
	c.what.OwnSession = exists && owner == c.account.ID
	if c.what.Program && exists && !c.what.OwnSession {
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
		spec.KillRemaining = true // what goes on would have no limit
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
	c.mu.Lock()
	limit, rule := c.verdict.MaxBytes, c.verdict.Rule
	c.mu.Unlock()
	// Without a limit too: one may come while the call runs.
	counter.Add(size(m))
	if limit > 0 && c.in.Load()+c.out.Load() > limit {
		return fault.New(codes.ResourceExhausted, "budget", "the call has moved more than the %d bytes that the policy gives it (rule %s)", limit, rule).
			On(c.method, "", nil).Hint("raise max_bytes of the role, or copy in parts")
	}
	return nil
}

// limitTime has the call stopped when the time that the policy gives it is over. mu
// is held.
func (c *call) limitTime() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	limit, rule := c.verdict.MaxTime, c.verdict.Rule
	if limit == 0 || c.over {
		return
	}
	c.timer = time.AfterFunc(limit-time.Since(c.start), func() {
		c.stop(fault.New(codes.ResourceExhausted, "budget", "the call has taken longer than the %v that the policy gives it (rule %s)", limit, rule).
			On(c.method, "", nil).Hint("raise max_time of the role"))
	})
}

// stop ends the call with err, which its caller is told.
func (c *call) stop(err error) {
	if c.why.CompareAndSwap(nil, &err) && c.cancel != nil {
		c.cancel(err)
	}
}

// stopped returns why the call was stopped, or nil.
func (c *call) stopped() error {
	if why := c.why.Load(); why != nil {
		return *why
	}
	return nil
}

// guestWorld is this guest, as policies need to know it, but for its files: how long
// those are looked at depends on the call.
func guestWorld() policy.World {
	var files account.Files
	return policy.World{
		UserID: func(user string) (uint32, error) {
			a, err := files.Find(user, "")
			return a.UID, err
		},
		GroupID: files.GroupID,
	}
}
