package rpc

import (
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
)

// One timer of the server ends all handshakes that take too long: to start and stop
// one for each connection would wake a thread of the process with each.

// watchHandshakes sees to it that the handshake which has just begun does not last
// for ever. mu is held.
func (s *Server) watchHandshakes() {
	if s.lateArmed {
		return // it looks at the others when it has ended the first
	}
	s.lateArmed = true
	if s.late == nil {
		s.late = time.AfterFunc(s.cfg.HandshakeTimeout, s.endLate)
		return
	}
	s.late.Reset(s.cfg.HandshakeTimeout)
}

// endLate makes the reads and writes of handshakes fail that have taken too long. A
// connection whose deadlines may do nothing is closed.
func (s *Server) endLate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lateArmed = false
	for _, e := range s.early { // the oldest first
		if left := time.Until(e.deadline); left > 0 {
			s.lateArmed = true
			s.late.Reset(left)
			return
		}
		if !e.late {
			e.late = true
			if !sock.Interruptible(e.nc) || e.nc.SetDeadline(time.Unix(1, 0)) != nil {
				_ = e.nc.Close()
			}
		}
	}
}
