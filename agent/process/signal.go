//go:build linux

package process

import (
	"context"
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// lastSignal is the highest signal number of Linux, on all architectures but
// MIPS.
const lastSignal = 64

// sendSignal is what an attached client asks for.
func (s *session) sendSignal(r *reader, m *guestv1.SendSignal) error {
	s.mu.Lock()
	owner := s.st.owner == r
	refused := s.notOwner(r)
	s.mu.Unlock()
	if !owner {
		return refused
	}
	err := s.deliver(m.Signal, !m.ProcessOnly)
	if f, ok := errors.AsType[*fault](err); ok && f.Reason() == reasonNoProcess {
		return nil // it has ended, which the client is about to be told
	}
	return err
}

// pidfdGroup is PIDFD_SIGNAL_PROCESS_GROUP.
const pidfdGroup = 1 << 2

// deliver signals the process or its group, as long as the process is not reaped:
// until then nobody else has its number. KILL to the group is for all that the
// session has started.
func (s *session) deliver(number uint32, group bool) error {
	if number > lastSignal {
		return badSignal(number)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exited {
		return noProcess("the session's process has ended")
	}
	pid := s.child.pid
	if group && syscall.Signal(number) == unix.SIGKILL {
		s.family.kill()
		return nil
	}
	if group {
		pid = -pid
	}
	return signalFault(unix.Kill(pid, syscall.Signal(number)), number)
}

// Signal implements guest.v1.ProcessService.
func (s *Server) Signal(ctx context.Context, req *guestv1.SignalRequest) (*guestv1.SignalResponse, error) {
	var err error
	switch t := req.Target.(type) {
	case *guestv1.SignalRequest_SessionId:
		var ses *session
		if ses, err = s.find(ctx, t.SessionId, ""); err == nil {
			err = ses.touch(ctx)
		}
		if err == nil {
			err = ses.deliver(req.Signal, req.Group)
		}
	case *guestv1.SignalRequest_Pid:
		err = s.signalPid(ctx, int(t.Pid), req)
	default:
		err = newFault(codes.InvalidArgument, reasonBadSpec, "no target of the signal")
	}
	if err != nil {
		return nil, err
	}
	return &guestv1.SignalResponse{}, nil
}

// signalPid signals any process. Its pidfd is taken before it is checked, so
// that what is signalled is what was checked.
func (s *Server) signalPid(ctx context.Context, pid int, req *guestv1.SignalRequest) error {
	switch {
	case req.Signal > lastSignal:
		return badSignal(req.Signal)
	case pid <= 0:
		return newFault(codes.InvalidArgument, reasonBadSpec, "%d is no pid", pid)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	switch {
	case err == nil:
		defer unix.Close(pidfd)
	case err != unix.ENOSYS:
		return noProcess("there is no process %d", pid)
	}
	now, ok := readStat(pid)
	switch {
	case !ok:
		return noProcess("there is no process %d", pid)
	case req.StartTicks != 0 && now.startTicks != req.StartTicks:
		return noProcess("process %d is another one now", pid)
	}
	if err := s.touchProcess(ctx, pid); err != nil {
		return err
	}
	sig := syscall.Signal(req.Signal)
	switch {
	case req.Group && now.group <= 1:
		// To kill(2) these are the agent's own group, and everybody.
		return noProcess("process %d has no group of its own that can be signalled", pid)
	case req.Group && err == nil && now.group == pid:
		// Before Linux 6.9 there is no signal to a group by pidfd.
		if err = unix.PidfdSendSignal(pidfd, sig, nil, pidfdGroup); err == unix.EINVAL {
			err = unix.Kill(-pid, sig)
		}
	case req.Group:
		err = unix.Kill(-now.group, sig)
	case err == nil:
		err = unix.PidfdSendSignal(pidfd, sig, nil, 0)
	default:
		err = unix.Kill(pid, sig)
	}
	return signalFault(err, req.Signal)
}

func badSignal(number uint32) error {
	return newFault(codes.InvalidArgument, reasonBadSignal, "%d is no signal", number)
}

func noProcess(format string, args ...any) error {
	return newFault(codes.NotFound, reasonNoProcess, format, args...).On("kill", "", unix.ESRCH)
}

// signalFault makes kill(2)'s answer a fault.
func signalFault(err error, number uint32) error {
	switch err {
	case nil:
		return nil
	case unix.ESRCH:
		return noProcess("the process has ended")
	case unix.EINVAL:
		return badSignal(number)
	}
	return notPermitted("kill", "", err, "cannot send signal %d: %v", number, err)
}
