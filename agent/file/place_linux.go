package file

import (
	"os"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
)

// maxLeft bounds the calls for one user that were left behind: a system call on a
// file system that does not answer cannot be ended. The agent's own user, which is
// everybody's who may act as root, has half of all.
const maxLeft = 16

// A place is one of the calls that the service has at a time.
type place struct {
	s          *Server
	account    charge.Account
	uid        uint32
	over, left bool // under Server.mu
}

// enter takes a place for a call of an account that acts as a user. It is given back
// by end.
func (s *Server) enter(account charge.Account, uid uint32) (*place, error) {
	most := maxLeft
	if int(uid) == os.Geteuid() {
		most = int(s.calls.Limit() / 2)
	}
	s.mu.Lock()
	left := s.left[uid]
	s.mu.Unlock()
	if left >= most {
		return nil, fault.New(codes.ResourceExhausted, reasonTooMany, "%d calls for user %d wait for a file system that does not answer, and cannot be ended", left, uid).
			Hint("look at the guest's mounts")
	}
	if r := s.calls.Take(account, 1); r != nil {
		return nil, fault.New(codes.ResourceExhausted, reasonTooMany, "too many calls of the file service are open: %v", r).
			Hint("close some of them")
	}
	return &place{s: s, account: account, uid: uid}, nil
}

// end gives the place back.
func (p *place) end() {
	p.s.calls.Give(p.account, 1)
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.over = true
	if !p.left {
		return
	}
	if p.s.left[p.uid]--; p.s.left[p.uid] == 0 {
		delete(p.s.left, p.uid)
	}
}

// leave is called when nobody waits for the call any more.
func (p *place) leave() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if !p.over {
		p.left = true
		p.s.left[p.uid]++
	}
}
