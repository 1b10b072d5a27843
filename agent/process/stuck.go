//go:build linux

package process

import "sync"

// tally counts something for each user.
type tally struct {
	mu sync.Mutex
	n  map[uint32]int
}

func (t *tally) of(uid uint32) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n[uid]
}

func (t *tally) add(uid uint32, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = make(map[uint32]int)
	}
	if t.n[uid] += n; t.n[uid] == 0 {
		delete(t.n, uid)
	}
}
