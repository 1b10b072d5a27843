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

// endGroup waits until the members of the process group that have outlived the
// process are gone, or kills them when their time after TERM is up.
func (s *session) endGroup() {
	pid := s.child.pid
	const look = 20 * time.Millisecond
	for time.Since(s.termAt) < killAfter {
		if unix.Kill(-pid, 0) == unix.ESRCH {
			return
		}
		time.Sleep(look)
	}
	s.group.kill()
	// The process is reaped, so its number may have become another's. Its pidfd
	// still means the group, on Linux 6.9 or later.
	const processGroup = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP
	err := syscall.Errno(unix.EINVAL)
	if s.child.handle != nil {
		_ = onFD(s.child.handle, func(fd int) error {
			err, _ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, processGroup).(syscall.Errno)
			return nil
		})
	}
	if err != unix.EINVAL {
		return
	}
	// Before that: who else is called so leads a session of that number, which
	// takes a process of that number.
	if unix.Kill(pid, 0) == unix.ESRCH {
		for _, m := range sessionMembers(pid) {
			m.signal(pid, unix.SIGKILL)
		}
	}
}
