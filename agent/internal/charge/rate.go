package charge

import (
	"sync"
	"time"
)

// Rate lets each account have so many events in a second and counts the others.
// Its methods may be called concurrently.
type Rate struct {
	// PerSecond is how many events of one account pass in a second.
	PerSecond int

	mu sync.Mutex
	of map[string]*second
}

// second is the second that has begun with an account's first event.
type second struct {
	passed, skipped int
	tell            func(skipped int)
}

// Take reports whether an event passes. If it does not, it is counted, and tell is
// called once with the count at the end of the second.
func (r *Rate) Take(a Account, tell func(skipped int)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = make(map[string]*second)
	}
	s := r.of[a.ID]
	if s == nil {
		s = &second{}
		r.of[a.ID] = s
		time.AfterFunc(time.Second, func() { r.end(a) })
	}
	if s.passed < r.PerSecond {
		s.passed++
		return true
	}
	s.skipped++
	s.tell = tell
	return false
}

// end ends the second of an account.
func (r *Rate) end(a Account) {
	r.mu.Lock()
	s := r.of[a.ID]
	delete(r.of, a.ID)
	r.mu.Unlock()
	if s.skipped > 0 {
		s.tell(s.skipped)
	}
}
