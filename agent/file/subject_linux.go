package file

import (
	"context"
	"errors"
	"os"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/internal/subject"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// account returns whom a call acts as.
func (s *Server) account(who *guestv1.Subject) (account.Account, error) {
	a, err := s.accounts.Find(string(who.GetUser()), string(who.GetGroup()))
	if err != nil {
		return a, accountFault(err)
	}
	if len(who.GetGroup()) == 0 && int(a.UID) == os.Geteuid() {
		a.GID = uint32(os.Getegid()) // the process's, whatever the files say
	}
	if !subject.Own(a) && os.Geteuid() != 0 {
		return a, fault.New(codes.PermissionDenied, reasonNotPermitted, "the agent is not root and cannot act as user %d, group %d", a.UID, a.GID).
			Hint("name no user, or run the agent as root")
	}
	return a, nil
}

// as calls f as an account: what f does with files it does on the goroutine that it
// is called on. If ctx ends and f does not, it is left behind, with its place.
func (s *Server) as(ctx context.Context, a account.Account, f func(tree) error) error {
	p, err := s.enter(charge.From(ctx), a.UID)
	if err != nil {
		return err
	}
	t := tree{root: s.root, home: a.Home, service: s.rootFile, other: !subject.Own(a)}
	if s.root != nil {
		t.home = "/"
	}
	err = subject.Do(ctx, a, func() error {
		defer p.end()
		return f(t)
	})
	if become, ok := errors.AsType[*subject.BecomeError](err); ok {
		p.end()
		return fault.New(codes.Internal, reasonFailed, "become user %d: %v", a.UID, become).On(become.Op, "", become)
	}
	if _, ok := errors.AsType[*subject.LeftError](err); ok {
		p.leave()
	}
	return err
}

func accountFault(err error) error {
	unknown, ok := errors.AsType[*account.UnknownError](err)
	if !ok {
		return fault.New(codes.Internal, reasonFailed, "%v", err).On("lookup", "", err)
	}
	f := fault.New(codes.FailedPrecondition, "no-such-"+unknown.Kind, "%v", err).On("lookup", unknown.Name, nil)
	return f.Hint("name one of " + account.PasswdFile + " and " + account.GroupFile + ", or a number")
}
