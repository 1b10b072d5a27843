//go:build linux

package process

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// end sends signals to everything that the session has started, and KILL to what
// is left after killAfter. Only the first call does anything; why is what people
// are told.
func (s *session) end(why string, signals ...syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending || s.exited {
		return
	}
	s.ending, s.reason, s.termAt = true, why, time.Now()
	// CONT, so that a stopped process gets the others.
	s.family.signal(append(signals, unix.SIGCONT)...)
	s.kill = time.AfterFunc(killAfter, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.reaped {
			s.family.kill()
		}
	})
}

// hangUp ends a session whose owner is gone for good.
func (s *session) hangUp(why string) { s.end(why, unix.SIGHUP, unix.SIGTERM) }

// endLingering waits until all is gone that has outlived the session's process and
// is to be ended, or kills it when its time after TERM is up.
func (s *session) endLingering() {
	members := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.family.members())
	}
	for look := 5 * time.Millisecond; time.Since(s.termAt) < killAfter; look = min(2*look, 100*time.Millisecond) {
		if members() == 0 {
			return
		}
		time.Sleep(look)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.family.kill()
}
