package rpc

import (
	"sync"
	"sync/atomic"
	"time"
)

// A budget bounds what all connections of a server hold for their clients. One half is
// for who comes first. Of the other a connection may hold as much as is a third of what
// it leaves: of what nobody holds, less what its peer holds on all its connections. So
// no peer gets more than about half, and there is always something left for the next.
type budget struct {
	limit    int64
	relieved func() // ServerConfig.Relieved, or nil
	held     atomic.Int64
	high     atomic.Int64 // the most that was held since the last relief

	mu         sync.Mutex
	peers      map[string]*peerShare
	relieving  bool // a timer runs
	relievedAt time.Time
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
	b := s.b
	held := b.held.Add(n)
	if high := b.high.Load(); held > high {
		b.high.Store(held)
	} else if b.relieved != nil && high >= reliefFrom && held < high/4 && b.high.CompareAndSwap(high, held) {
		b.relieveSoon()
	}
	s.held.Add(n)
	if s.peer != nil {
		s.peer.held.Add(n)
	}
}

const (
	// reliefFrom is from how much on it is a relief that it is held no longer.
	reliefFrom = 8 << 20
	reliefWait = time.Second
	reliefRest = 10 * time.Second // between two
)

// relieveSoon calls relieved in a while, if little is held then, too.
func (b *budget) relieveSoon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.relieving {
		return
	}
	b.relieving = true
	time.AfterFunc(max(reliefWait, reliefRest-time.Since(b.relievedAt)), func() {
		b.mu.Lock()
		b.relieving, b.relievedAt = false, time.Now()
		b.mu.Unlock()
		if b.held.Load() < reliefFrom/4 {
			b.relieved()
		}
	})
}
