//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// stats are the figures of a run.
type stats struct {
	took time.Duration

	mu       sync.Mutex
	faults   [numberOfKinds]int
	slowest  [numberOfKinds]time.Duration
	done     [kindsOfWork]int
	refused  [kindsOfWork]int
	why      map[string]int
	lost     int
	repeated int
	agents   []string
	self     [2]footprint // at the start and at the end
}

func (s *stats) injected(k kind, recovery time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[k]++
	s.slowest[k] = max(s.slowest[k], recovery)
}

func (s *stats) operation(w work, why string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok {
		s.done[w]++
		return
	}
	s.refused[w]++
	if s.why == nil {
		s.why = make(map[string]int)
	}
	s.why[why]++
}

func (s *stats) acknowledged(o outcome, times int) {
	if o == done && times == 0 {
		s.lost++
	}
	s.repeated += max(times-1, 0)
}

func (s *stats) agent(m *machine, now footprint) {
	s.agents = append(s.agents, fmt.Sprintf("agent %d: started %d times; descriptors %d, at the start %d; memory %.1f MiB, at the start %.1f; goroutines %d",
		m.number, m.starts, now.descriptors, m.base.descriptors,
		float64(now.resident)/(1<<20), float64(m.base.resident)/(1<<20), now.goroutines))
}

// report prints the figures.
func (s *soak) report() {
	t := &s.stats
	t.mu.Lock()
	defer t.mu.Unlock()
	w := tabwriter.NewWriter(s.opts.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nfault\tinjected\tslowest recovery\n")
	total := 0
	for k := range kind(numberOfKinds) {
		if t.faults[k] > 0 {
			fmt.Fprintf(w, "%v\t%d\t%v\n", k, t.faults[k], t.slowest[k].Round(100*time.Microsecond))
			total += t.faults[k]
		}
	}
	fmt.Fprintf(w, "all\t%d\t%v\n\nwork\tdone\trefused\n", total, slices.Max(t.slowest[:]).Round(100*time.Microsecond))
	done, refused := 0, 0
	for k := range work(kindsOfWork) {
		if t.done[k]+t.refused[k] > 0 {
			fmt.Fprintf(w, "%v\t%d\t%d\n", k, t.done[k], t.refused[k])
		}
		done, refused = done+t.done[k], refused+t.refused[k]
	}
	fmt.Fprintf(w, "all\t%d\t%d\n\nrefused because of\ttimes\n", done, refused)
	for _, why := range slices.Sorted(maps.Keys(t.why)) {
		fmt.Fprintf(w, "%s\t%d\n", why, t.why[why])
	}
	w.Flush()
	fmt.Fprintln(s.opts.out)
	for _, a := range t.agents {
		fmt.Fprintln(s.opts.out, a)
	}
	fmt.Fprintf(s.opts.out, "this process: descriptors %d, at the start %d; goroutines %d, at the start %d\n",
		t.self[1].descriptors, t.self[0].descriptors, t.self[1].goroutines, t.self[0].goroutines)
	fmt.Fprintf(s.opts.out, "\n%v, seed %d, %d clients, %d machines: %d faults, %d operations done, %d refused, %d lost, %d repeated\n",
		t.took.Round(time.Second), s.opts.seed, s.opts.clients, s.opts.machines, total, done, refused, t.lost, t.repeated)
	if n := len(s.violations) + s.dropped; n > 0 {
		fmt.Fprintf(s.opts.out, "%d promises were BROKEN (above). The same again: go run ./internal/soak -seed %d -time %v -clients %d -v\n",
			n, s.opts.seed, s.opts.time, s.opts.clients)
	} else {
		fmt.Fprintln(s.opts.out, "every promise was kept")
	}
}
