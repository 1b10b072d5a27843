package rpc

import (
	"net"
	"slices"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// arrival is a connection, from when it was accepted.
type arrival struct {
	nc       net.Conn
	stranger bool
	peer     *peerArrivals
	deadline time.Time // of the handshake
	tenant   *tenant   // if ServerConfig.Admit has let it in

	// Guarded by Server.mu.
	late  bool // the handshake has taken too long
	stage stage
}

// stage is how far a handshake is.
type stage int

const (
	silent   stage = iota // nothing was received
	speaking              // something was
	stages
)

// peerArrivals counts the connections in their handshake of one peer.
type peerArrivals struct {
	name  string
	count [stages]int
}

// arrive accounts for a connection that begins its handshake, in the place of
// another if there are too many. It reports whether the connection may go on. mu is
// held.
func (s *Server) arrive(a *arrival, name string) bool {
	limit := s.cfg.MaxConnections
	if limit > 0 && (s.conns >= limit || a.stranger && s.strange >= limit/2) {
		return false
	}
	if len(s.early) >= s.cfg.MaxHandshakes && !s.makeRoom(a.stranger) {
		return false
	}
	if a.peer = s.peers[name]; a.peer == nil {
		a.peer = &peerArrivals{name: name}
		s.peers[name] = a.peer
	}
	a.peer.count[silent]++
	s.early = append(s.early, a)
	s.watchHandshakes()
	s.conns++
	if a.stranger {
		s.strange++
	}
	return true
}

// makeRoom ends the handshake of a stranger or, for who is none and if there are
// no strangers, of anybody. Of those in the stage that has more of them, it takes
// the peer with the most, and its oldest: whoever floods the server pushes itself
// out, and those that have not said anything cannot push out those that have. mu is
// held.
func (s *Server) makeRoom(stranger bool) bool {
	for {
		found := s.leastDeserving(stranger)
		if found < 0 {
			return false
		}
		if e := s.early[found]; e.stage == silent && hasInput(e.nc) {
			s.advance(e) // only this process was slow to look
			continue
		}
		_ = s.early[found].nc.Close()
		s.forgetArrival(found)
		return true
	}
}

// leastDeserving returns the index of the handshake that makeRoom ends, or -1. mu is
// held.
func (s *Server) leastDeserving(stranger bool) int {
	var n [stages]int
	for _, e := range s.early {
		if e.stranger {
			n[e.stage]++
		}
	}
	strangers := n[silent]+n[speaking] > 0
	if !strangers && stranger {
		return -1
	}
	which := silent
	if n[speaking] > n[silent] {
		which = speaking
	}
	found := -1
	for i, e := range s.early {
		if strangers && (!e.stranger || e.stage != which) {
			continue
		}
		if found < 0 || strangers && e.peer.count[which] > s.early[found].peer.count[which] {
			found = i
		}
	}
	return found
}

// advance notes that something was received of a handshake. mu is held.
func (s *Server) advance(a *arrival) {
	a.peer.count[silent]--
	a.peer.count[speaking]++
	a.stage = speaking
}

// forgetArrival takes a connection off those in their handshake. mu is held.
func (s *Server) forgetArrival(i int) {
	a := s.early[i]
	s.early = slices.Delete(s.early, i, i+1)
	a.peer.count[a.stage]--
	if a.peer.count == [stages]int{} {
		delete(s.peers, a.peer.name)
	}
}

// spoke is called when the first bytes of a connection are there.
func (s *Server) spoke(a *arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.stage == silent && slices.Contains(s.early, a) {
		s.advance(a)
	}
}

// introduced ends the handshake of a connection, and reports whether that was in
// time. mu is held.
func (s *Server) introduced(a *arrival) bool {
	i := slices.Index(s.early, a)
	if i < 0 {
		return false // it has given way
	}
	s.forgetArrival(i)
	return !a.late
}

// peerName returns what ServerConfig.Peer calls a peer.
func (s *Server) peerName(info credentials.AuthInfo) string {
	if s.cfg.Peer == nil {
		return ""
	}
	return s.cfg.Peer(info)
}

// tenant is a connection that ServerConfig.Admit has let in.
type tenant struct {
	admitted chan struct{} // closed when gone is set
	gone     func()
}

// leave tells who has let the connection in that it has ended.
func (t *tenant) leave() {
	<-t.admitted
	if t.gone != nil {
		t.gone()
	}
}

// admit asks ServerConfig.Admit about a connection, which end ends.
func (s *Server) admit(a *arrival, info credentials.AuthInfo, end func()) bool {
	if s.cfg.Admit == nil || a.stranger {
		return true
	}
	t := &tenant{admitted: make(chan struct{})}
	a.tenant = t
	t.gone = s.cfg.Admit(info, end)
	close(t.admitted)
	return t.gone != nil
}

// errNotAdmitted ends a connection that ServerConfig.Admit refuses, and errEvicted
// one that it has let in and ends.
var (
	errNotAdmitted = wire.Errorf(wire.CodeResource, "the server has too many connections of this client already")
	errEvicted     = wire.Errorf(wire.CodeResource, "the server has too many connections of this client, and needs the place of this one")
)
