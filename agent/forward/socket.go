//go:build linux

package forward

import (
	"context"
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/internal/subject"
	"github.com/vsockrpc/vsockrpc/internal/localhost"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// socketFile is what the file of a Unix socket that is listened on has.
type socketFile struct {
	mode     *uint32 // nil: as the umask leaves it
	uid, gid *uint32 // nil: the agent's
}

// socketFileOf returns what a request asks for.
func socketFileOf(req *guestv1.ListenRequest) (socketFile, error) {
	s := socketFile{mode: req.Mode}
	user, group := string(req.GetUser()), string(req.GetGroup())
	if s.mode == nil && user == "" && group == "" {
		return s, nil
	}
	address := string(req.GetAddress())
	if req.GetNetwork() != "unix" || strings.HasPrefix(address, "@") {
		return s, fault.New(codes.InvalidArgument, reasonBadAddress, "a mode or an owner is of the file of a Unix socket, which %s %s has not", req.GetNetwork(), address)
	}
	if s.mode != nil && *s.mode&^0o777 != 0 {
		return s, fault.New(codes.InvalidArgument, reasonBadAddress, "mode %#o is beyond 0777", *s.mode)
	}
	var files account.Files
	if user != "" {
		uid, err := files.UserID(user)
		if err != nil {
			return s, fault.New(codes.FailedPrecondition, "no-such-user", "%v", err).On("listen", address, nil)
		}
		s.uid = &uid
	}
	if group != "" {
		gid, err := files.GroupID(group)
		if err != nil {
			return s, fault.New(codes.FailedPrecondition, "no-such-group", "%v", err).On("listen", address, nil)
		}
		s.gid = &gid
	}
	return s, nil
}

// listen listens at a path. The file has its mode and its owner from the start on, so
// that it is never more open than asked, and no file that somebody else puts in its
// place meanwhile gets them: on Linux they come from the socket and from the thread that
// binds it, which is used for nothing else.
func (s socketFile) listen(ctx context.Context, path string) (l net.Listener, err error) {
	var lc net.ListenConfig
	if s == (socketFile{}) {
		return localhost.Listen(ctx, &lc, "unix", path)
	}
	lc.Control = func(_, _ string, rc syscall.RawConn) error {
		if s.mode == nil {
			return nil
		}
		var err error
		if ctlErr := rc.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), *s.mode) }); ctlErr != nil {
			return ctlErr
		}
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		subject.OnThread(func() {
			if err = s.prepareThread(); err == nil {
				l, err = localhost.Listen(ctx, &lc, "unix", path)
			}
		})
	}()
	<-done
	return l, err
}

// prepareThread gives the calling thread, and no other, a umask of its own and the ids
// of the owner for files, with the capabilities that it has.
func (s socketFile) prepareThread() error {
	if s.mode != nil {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		unix.Umask(0)
	}
	if s.uid == nil && s.gid == nil {
		return nil
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return err
	}
	if s.gid != nil {
		unix.SetfsgidRetGid(int(*s.gid))
		if got, _ := unix.SetfsgidRetGid(-1); got != int(*s.gid) {
			return unix.EPERM
		}
	}
	if s.uid != nil {
		unix.SetfsuidRetUid(int(*s.uid))
		if got, _ := unix.SetfsuidRetUid(-1); got != int(*s.uid) {
			return unix.EPERM
		}
	}
	// A file-system id that is not root's has taken those for files from the thread.
	return unix.Capset(&head, &caps[0])
}
