package rpc

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// manyCPUs reports whether a peer can run while this process does. That this
// process is bound to one CPU says nothing about the peer, so all that are online
// count.
var manyCPUs = sync.OnceValue(func() bool {
	online, err := os.ReadFile("/sys/devices/system/cpu/online") // such as "0" or "0-3"
	return runtime.NumCPU() > 1 || err == nil && strings.ContainsAny(string(online), ",-")
})

// spinning counts the goroutines that look for data now. They leave half of the
// CPUs of this process to others.
var spinning atomic.Int32

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
	if !manyCPUs() {
		return false
	}
	if spinning.Add(1) > int32(runtime.GOMAXPROCS(0)+1)/2 {
		spinning.Add(-1)
		return false
	}
	return true
}

// done ends what try began.
func (s *spinner) done(hit bool) {
	spinning.Add(-1)
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
