package rpc

import (
	"sync"
	"sync/atomic"
)

// A budget bounds what all connections of a server hold for their clients. One half is
// for who comes first. Of the other a connection may hold as much as is a third of what
// it leaves: of what nobody holds, less what its peer holds on all its connections. So
// no peer gets more than about half, and there is always something left for the next.
type budget struct {
	limit int64
	held  atomic.Int64

	mu    sync.Mutex
	peers map[string]*peerShare
}

// peerShare is what the connections of one peer hold together.
type peerShare struct {
	held  atomic.Int64
	conns int // guarded by budget.mu
}

// share is the part of a connection. The zero value is of a client, and unbounded.
type share struct {
	b    *budget // nil: unbounded
	peer *peerShare
	name string
	held atomic.Int64
}

// callCost is what a call costs beside its messages: its goroutine, its stream and its
// context.
const callCost = 6 << 10

// join makes s a share of b, of the peer of that name, or of one that nothing is known
// of if that is "".
func (s *share) join(b *budget, name string) {
	s.b, s.name = b, name
	if name == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.peers == nil {
		b.peers = make(map[string]*peerShare)
	}
	if s.peer = b.peers[name]; s.peer == nil {
		s.peer = &peerShare{}
		b.peers[name] = s.peer
	}
	s.peer.conns++
}

// leave ends that s counts among its peer's. What it holds is still to be given back.
func (s *share) leave() {
	if s.peer == nil {
		return
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.peer.conns--; s.peer.conns == 0 && s.b.peers[s.name] == s.peer {
		delete(s.b.peers, s.name)
	}
}

// room returns how much more s may hold.
func (s *share) room() int64 {
	held := s.b.held.Load()
	left := s.b.limit - held
	if s.peer != nil {
		left -= s.peer.held.Load()
	}
	return max(s.b.limit/2-held, left/3-s.held.Load())
}

// hold counts n bytes, if there is room for times that.
func (s *share) hold(n, times int64) bool {
	if s.b == nil {
		return true
	}
	if n*times > s.room() {
		return false
	}
	s.add(n)
	return true
}

// free ends that n bytes count.
func (s *share) free(n int64) {
	if s.b != nil && n != 0 {
		s.add(-n)
	}
}

func (s *share) add(n int64) {
	s.b.held.Add(n)
	s.held.Add(n)
	if s.peer != nil {
		s.peer.held.Add(n)
	}
}
