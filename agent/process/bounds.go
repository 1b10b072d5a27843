//go:build linux

package process

import (
	"bytes"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"

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

// checkName refuses names that people or programs could take for something else.
func checkName(name string) error {
	bad := func(format string, args ...any) error {
		return newFault(codes.InvalidArgument, reasonBadSpec, format, args...)
	}
	_, isID := parseSessionID(name)
	switch {
	case name == "":
		return nil
	case len(name) > maxSessionName:
		return bad("a session's name has %d bytes at most, not %d", maxSessionName, len(name))
	case strings.TrimSpace(name) != name:
		return bad("a session's name neither begins nor ends with a blank: %q", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return bad("a session's name has no control characters: %q", name)
	case strings.Trim(name, "0123456789@") == "":
		return bad("a session's name is no number, which would be a pid: %q", name)
	case isID:
		return bad("a session's name is not like an id: %q", name)
	}
	return nil
}

// slim returns what is kept of a spec once its process runs.
func slim(spec *guestv1.SessionSpec) *guestv1.SessionSpec {
	return &guestv1.SessionSpec{
		Name: spec.Name, Args: clipArgs(spec.Args, maxKeptArgs), Terminal: spec.Terminal,
		KillRemaining: spec.KillRemaining, KeepResult: spec.KeepResult,
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
