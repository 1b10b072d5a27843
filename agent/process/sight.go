//go:build linux

package process

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// A session is its caller's: of those that others have started, a caller that may not
// do everything sees no arguments, and attaches to, signals and removes none.

// Reach says whether a call may touch the sessions of other callers: by default only
// one of a caller who may do everything.
type Reach struct{ all atomic.Bool }

type reachKey struct{}

// WithReach returns a context for a call, and its reach.
func WithReach(ctx context.Context) (context.Context, *Reach) {
	r := new(Reach)
	return context.WithValue(ctx, reachKey{}, r), r
}

// All lets the call touch the sessions of others: a rule says so. It has to be called
// before the handler has received its first message.
func (r *Reach) All() { r.all.Store(true) }

// reaches reports whether the call of ctx may touch sessions of others.
func reaches(ctx context.Context) bool {
	r, _ := ctx.Value(reachKey{}).(*Reach)
	return charge.From(ctx).Full || r != nil && r.all.Load()
}

// touch returns the fault of a call that may not touch a session, or nil.
func (s *session) touch(ctx context.Context) error {
	if s.account.ID == charge.From(ctx).ID || reaches(ctx) {
		return nil
	}
	return foreignSession(s.id)
}

func foreignSession(id sessionID) error {
	return newFault(codes.PermissionDenied, reasonForeignSession, "session %s was started by another caller", id).
		Hint("ask for the profile full, or for a rule of the policy that names this method")
}

// sessionName is a name that a caller has given to a session: those of others do not
// count, so that nobody can take one from somebody.
type sessionName struct{ account, name string }

func (s *session) named() sessionName { return sessionName{s.account.ID, s.spec.Name} }

// called returns the session that a caller means by a name, or nil. mu is held.
func (s *Server) called(ctx context.Context, name string) *session {
	if own := s.names[sessionName{charge.From(ctx).ID, name}]; own != nil || !reaches(ctx) {
		return own
	}
	var newest *session
	for n, ses := range s.names {
		if n.name == name && (newest == nil || ses.seq > newest.seq) {
			newest = ses
		}
	}
	return newest
}

// show returns what an account sees of a session.
func (s *session) show(to charge.Account, info *guestv1.SessionInfo) *guestv1.SessionInfo {
	if to.Full || s.account.ID == to.ID {
		return info
	}
	less := proto.CloneOf(info)
	less.Args = nil
	return less
}

// touchProcess returns the fault of a call that may not signal a process, since it
// belongs to the session of another.
func (s *Server) touchProcess(ctx context.Context, pid int) error {
	if reaches(ctx) {
		return nil
	}
	list, err := pids()
	if err != nil {
		return nil // no /proc: nobody knows
	}
	stats := make(map[int]procStat, len(list))
	for _, p := range list {
		if st, ok := readStat(p); ok {
			stats[p] = st
		}
	}
	p, ok := stats[pid]
	if !ok {
		return nil
	}
	id, ses, ok := s.kin(stats).of(p)
	switch {
	case !ok:
		return nil
	case ses == nil:
		return foreignSession(id)
	}
	return ses.touch(ctx)
}
