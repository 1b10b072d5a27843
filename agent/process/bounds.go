//go:build linux

package process

import (
	"bytes"

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

// Bounds of what is kept of a session as long as its result.
const (
	maxSessionName = 255
	maxKeptArgs    = 4 << 10 // bytes of its arguments
	maxListedArgs  = 2 << 20 // of all sessions, in the answer of ListSessions
)

// slim returns what is kept of a spec once its process runs.
func slim(spec *guestv1.SessionSpec) *guestv1.SessionSpec {
	return &guestv1.SessionSpec{
		Name: spec.Name, Args: clipArgs(spec.Args, maxKeptArgs), Terminal: spec.Terminal,
		KillRemaining: spec.KillRemaining,
	}
}

// clipArgs returns the first arguments, of so many bytes in all, and says if some
// were left out. It keeps nothing of the others.
func clipArgs(args [][]byte, limit int) [][]byte {
	var kept [][]byte
	for _, a := range args {
		const least = 16 // what a word costs beside its bytes
		if limit -= len(a) + least; limit < 0 {
			n := max(limit+len(a), 0)
			return append(kept, append(bytes.Clone(a[:n]), "..."...))
		}
		kept = append(kept, a)
	}
	return kept
}
