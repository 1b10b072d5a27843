package sock

import (
	"os"
	"runtime"
	"strings"
	"sync"
)

// manyCPUs reports whether a peer can run while this process does. That this
// process is bound to one CPU says nothing about the peer, so all that are online
// count.
var manyCPUs = sync.OnceValue(func() bool {
	online, err := os.ReadFile("/sys/devices/system/cpu/online") // such as "0" or "0-3"
	return runtime.NumCPU() > 1 || err == nil && strings.ContainsAny(string(online), ",-")
})

// spinner decides whether to look for data for a while before sleeping. Each
// time that brought nothing it doubles the number of sleeps until it tries again, up
// to 1,024: where looking does not pay, on one CPU or with a slow peer, the worst
// that it costs is one look, of 50 µs by default, in as many sleeps. It belongs to one
// connection.
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
	return manyCPUs()
}

// done ends what try began.
func (s *spinner) done(hit bool) {
	if hit {
		// One alone may be luck, and proves nothing.
		s.misses -= min(s.misses, 2)
		return
	}
	if s.misses < maxSpinMisses {
		s.misses++
	}
	if s.misses > 1 {
		s.skip = 1 << s.misses
	}
}
