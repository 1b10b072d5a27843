package file

import (
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// as calls f as a subject: on this goroutine if that is the agent's own user,
// otherwise on one whose thread has become the subject. f must do its work with
// files on the goroutine that it is called on.
func (s *Server) as(subject *guestv1.Subject, f func(tree) error) error {
	user, group := string(subject.GetUser()), string(subject.GetGroup())
	a, err := s.accounts.Find(user, group)
	if err != nil {
		return accountFault(err)
	}
	t := tree{root: s.root, home: a.Home, service: s.rootFile}
	if s.root != nil {
		t.home = "/"
	}
	own := int(a.UID) == os.Geteuid()
	if own && (group == "" || int(a.GID) == os.Getegid()) {
		return f(t)
	}
	if os.Geteuid() != 0 {
		return fault.New(codes.PermissionDenied, reasonNotPermitted, "the agent is not root and cannot act as user %d, group %d", a.UID, a.GID).
			Hint("name no user, or run the agent as root")
	}
	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, since nobody
		// else must run on it.
		runtime.LockOSThread()
		if err := become(a); err != nil {
			done <- fault.New(codes.Internal, reasonFailed, "become user %d: %v", a.UID, err).On("setresuid", "", err)
			return
		}
		done <- f(t)
	}()
	return <-done
}

// become gives the calling thread, and no other, the rights of an account. It
// cannot be undone. Go's own functions would change all threads.
func become(a account.Account) error {
	groups := a.Groups
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(sysSetgroups, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return errno
	}
	gid, uid := uintptr(a.GID), uintptr(a.UID)
	if _, _, errno := unix.RawSyscall(sysSetresgid, gid, gid, gid); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(sysSetresuid, uid, uid, uid); errno != 0 {
		return errno
	}
	return nil
}

func accountFault(err error) error {
	unknown, ok := errors.AsType[*account.UnknownError](err)
	if !ok {
		return fault.New(codes.Internal, reasonFailed, "%v", err).On("lookup", "", err)
	}
	f := fault.New(codes.FailedPrecondition, "no-such-"+unknown.Kind, "%v", err).On("lookup", unknown.Name, nil)
	return f.Hint("name one of " + account.PasswdFile + " and " + account.GroupFile + ", or a number")
}
