package rpc

// spinner decides whether to look for data for a while before sleeping. Each
// time that brought nothing it doubles the number of sleeps until it tries again,
// so that where looking does not pay, on one CPU or with a slow peer, it costs
// next to nothing.
type spinner struct {
	misses uint // in a row
	skip   uint // sleeps until the next try
}

const maxSpinMisses = 10

// try reports whether to look now.
func (s *spinner) try() bool {
	if s.skip > 0 {
		s.skip--
		return false
	}
	return true
}

func (s *spinner) hit() { s.misses = 0 }

func (s *spinner) miss() {
	if s.misses < maxSpinMisses {
		s.misses++
	}
	if s.misses > 1 {
		s.skip = 1 << s.misses
	}
}
