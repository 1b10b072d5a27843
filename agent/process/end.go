//go:build linux

package process

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// end sends signals that end the session's processes, and KILL to what is left
// after killAfter. Only the first call does anything; why is what people are
// told.
func (s *session) end(why string, signals ...syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending || s.exited {
		return
	}
	s.ending, s.reason, s.termAt = true, why, time.Now()
	// CONT, so that a stopped process gets the others.
	for _, sig := range append(signals, unix.SIGCONT) {
		s.signalAll(sig)
	}
	s.kill = time.AfterFunc(killAfter, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.reaped {
			s.signalAll(unix.SIGKILL)
			s.group.kill()
		}
	})
}

// hangUp ends a session whose owner is gone for good.
func (s *session) hangUp(why string) { s.end(why, unix.SIGHUP, unix.SIGTERM) }

// signalAll signals every process of the POSIX session that the process leads:
// its group, and the groups that a shell made of its jobs. It is called under
// mu, before the process is reaped, so that the number is still its own.
func (s *session) signalAll(sig syscall.Signal) {
	_ = unix.Kill(-s.child.pid, sig)
	for _, m := range sessionMembers(s.child.pid) {
		if m.group != s.child.pid {
			m.signal(s.child.pid, sig)
		}
	}
}

// lingers reports whether processes that are to be ended have outlived the
// session's own: of its group or, if the whole session is ended, of the groups
// that a shell made of its jobs. It is called after the process was reaped.
// While one of them lives, the kernel gives the number to nobody else.
func (s *session) lingers() bool {
	if unix.Kill(-s.child.pid, 0) != unix.ESRCH {
		return true
	}
	return s.ending && len(sessionMembers(s.child.pid)) > 0
}

// endLingering waits until those are gone, or kills them when their time after
// TERM is up.
func (s *session) endLingering() {
	const look = 20 * time.Millisecond
	for time.Since(s.termAt) < killAfter {
		if !s.lingers() {
			return
		}
		time.Sleep(look)
	}
	s.group.kill()
	s.killGroup()
	// Who leads another session of that number takes a process of that number.
	if unix.Kill(s.child.pid, 0) == unix.ESRCH {
		for _, m := range sessionMembers(s.child.pid) {
			m.signal(s.child.pid, unix.SIGKILL)
		}
	}
}

// pidfdGroup is PIDFD_SIGNAL_PROCESS_GROUP.
const pidfdGroup = 1 << 2

// killGroup kills the process group by the pidfd of the process that led it,
// which still means that group when the number means another. Before Linux 6.9
// it does nothing.
func (s *session) killGroup() {
	if s.child.handle != nil {
		_ = onFD(s.child.handle, func(fd int) error {
			return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, pidfdGroup)
		})
	}
}
