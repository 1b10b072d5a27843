package rpc

import (
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// Bounds on the connections of clients that ServerConfig.Known does not know. They
// are enough to ask for somebody's health, and so small that whoever goes to all of
// them takes nothing from clients that are known: about 50 MiB of memory.
const (
	MaxStrangers          = 64       // connections past their handshake, all together
	MaxStrangerStreams    = 8        // calls of one connection
	MaxStrangerRecvSize   = 16 << 10 // bytes of one message
	MaxStrangerConnWindow = 1 << 20  // bytes that one native connection may send ahead
	MaxStrangerBudget     = 8 << 20  // bytes received and not consumed, of all native connections
)

// isStranger reports whether a connection is of a client that is not known.
func (s *Server) isStranger(info credentials.AuthInfo) bool {
	return s.cfg.Known != nil && !s.cfg.Known(info)
}

// settled is told of a stranger's connection that is past its handshake, and how to
// end it. The oldest gives way if there are too many.
func (s *Server) settled(nc net.Conn, end func()) {
	s.mu.Lock()
	var oldest func()
	if len(s.strangers) >= MaxStrangers {
		oldest = s.strangers[0].end
		s.strangers = slices.Delete(s.strangers, 0, 1)
	}
	s.strangers = append(s.strangers, settler{nc, end})
	s.mu.Unlock()
	if oldest != nil {
		oldest()
	}
}

// settler is a stranger's connection and what ends it.
type settler struct {
	nc  net.Conn
	end func()
}

// gone accounts for a connection that has ended.
func (s *Server) gone(a *arrival) {
	s.mu.Lock()
	s.conns--
	if a.stranger {
		s.strange--
		s.strangers = slices.DeleteFunc(s.strangers, func(o settler) bool { return o.nc == a.nc })
	}
	s.drained.Broadcast()
	s.mu.Unlock()
	if a.tenant != nil {
		a.tenant.leave()
	}
}

// seldom lets one record through in each interval, so that a peer cannot fill a
// log, and counts the others.
type seldom struct {
	mu      sync.Mutex
	last    time.Time
	skipped int
}

// logInterval is how far apart records about faults of clients are at least.
const logInterval = time.Second

// next reports whether to log now, and how many were not logged before.
func (l *seldom) next() (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && time.Since(l.last) < logInterval {
		l.skipped++
		return 0, false
	}
	skipped, l.skipped, l.last = l.skipped, 0, time.Now()
	return skipped, true
}
