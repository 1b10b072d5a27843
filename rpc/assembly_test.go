package rpc

import (
	"testing"

	"pgregory.net/rapid"
)

// TestAssembly checks that long messages are put together one after another, that
// nobody is passed over, and that nothing is lost.
func TestAssembly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(1, 100).Draw(t, "limit")
		a := assembly{limit: limit}
		var all, working []*stream
		var queue []*stream
		want := map[*stream]int64{}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				s := &stream{}
				all = append(all, s)
				want[s] = rapid.Int64Range(1, 150).Draw(t, "n")
				if a.reserve(s, want[s]) {
					if len(queue) > 0 {
						t.Fatal("passed over those who wait")
					}
					working = append(working, s)
				} else {
					queue = append(queue, s)
				}
			},
			"release": func(t *rapid.T) {
				if len(working) == 0 {
					t.Skip()
				}
				s := working[0]
				working = working[1:]
				next := a.release(s)
				for next != nil {
					if next != queue[0] {
						t.Fatal("not the first in the queue")
					}
					if !a.reserve(next, want[next]) {
						if a.used == 0 {
							t.Fatal("refused although nothing is used")
						}
						break
					}
					working = append(working, next)
					queue = queue[1:]
					next = nil
					if len(queue) > 0 {
						next = queue[0]
					}
				}
			},
			"give up": func(t *rapid.T) {
				if len(queue) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(queue)-1).Draw(t, "i")
				a.release(queue[i])
				queue = append(queue[:i], queue[i+1:]...)
			},
			"": func(t *rapid.T) {
				var used int64
				for _, s := range working {
					used += want[s]
				}
				if a.used != used || len(a.queue) != len(queue) {
					t.Fatalf("used %d, want %d; %d wait, want %d", a.used, used, len(a.queue), len(queue))
				}
				if len(working) > 1 && used > limit {
					t.Fatalf("%d of %d bytes for %d messages", used, limit, len(working))
				}
				if len(working) == 0 && len(queue) > 0 && a.used > 0 {
					t.Fatal("stuck")
				}
			},
		})
	})
}
