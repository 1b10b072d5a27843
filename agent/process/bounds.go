//go:build linux

package process

import (
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Limits returns the bounds in force, as AgentService.Info tells them.
func (s *Server) Limits() *guestv1.Limits {
	return &guestv1.Limits{
		MaxSessions:        uint32(s.cfg.MaxSessions),
		MaxRingBytes:       s.cfg.MaxRingBytes,
		MaxRingsTotalBytes: s.cfg.MaxRingsTotal,
		MaxArgsBytes:       uint64(s.cfg.MaxArgBytes),
	}
}
