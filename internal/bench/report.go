package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// A report is what is printed of a run, as Markdown.
type report struct {
	facts   []fact
	args    []string
	options options
	took    time.Duration
	results *results
}

func (r report) write(w io.Writer) {
	r.writeFacts(w)
	r.writeGoals(w)
	r.writeOverview(w)
	r.writeDetails(w)
	r.writeIdle(w)
}

func (r report) writeFacts(w io.Writer) {
	fmt.Fprintf(w, "Command: `go run .%s` in internal/bench; %d rounds of %v per peer and scenario after %v of warm-up, %v in all.\n\n",
		strings.Join(append([]string{""}, r.args...), " "), r.options.rounds, r.options.window, r.options.warmup, r.took.Round(time.Second))
	for _, f := range r.facts {
		fmt.Fprintf(w, "- %s: %s\n", f.name, f.value)
	}
	for _, p := range peers {
		if r.measured(p.name) {
			fmt.Fprintf(w, "- **%s**: %s\n", p.name, p.about)
		}
	}
	fmt.Fprintln(w)
}

func (r report) measured(peerName string) bool {
	for m := range r.results.rounds {
		if m.peer == peerName {
			return true
		}
	}
	return false
}

// figure is the summary of what a goal is about.
func (r report) figure(g goal) summary {
	v := r.results.values(g.scenario, g.peer, g.metric)
	if g.base != "" {
		v = ratios(v, r.results.values(g.scenario, g.base, g.metric))
	}
	return summarize(v)
}

// verdict says what a goal's figure reaches.
func (g goal) verdict(s summary) string {
	switch {
	case s.n == 0:
		return "not measured"
	case !math.IsNaN(g.must) && !g.meets(s.median, g.must):
		return "**missed**"
	case !math.IsNaN(g.goal) && g.meets(s.median, g.goal):
		return "goal"
	case math.IsNaN(g.must):
		return fmt.Sprintf("%.0f %% of goal", 100*g.share(s.median))
	}
	return "must"
}

// share is how much of the goal a figure reaches.
func (g goal) share(v float64) float64 {
	if g.atMost {
		return g.goal / v
	}
	return v / g.goal
}

// missed counts the musts that are measured and missed.
func (r report) missed() int {
	n := 0
	for _, g := range goals {
		if g.verdict(r.figure(g)) == "**missed**" {
			n++
		}
	}
	return n
}

func (r report) writeGoals(w io.Writer) {
	fmt.Fprint(w, "| work | figure | median | spread | must | goal | reached |\n|---|---|---|---|---|---|---|\n")
	for _, g := range goals {
		sign := "≥ "
		if g.atMost {
			sign = "≤ "
		}
		bound := func(v float64) string {
			if math.IsNaN(v) {
				return ""
			}
			return sign + fmt.Sprint(v)
		}
		s := r.figure(g)
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n",
			g.work, g.title(), s, s.spread(), bound(g.must), bound(g.goal), g.verdict(s))
	}
	fmt.Fprintln(w)
}

// title names the figure: "calls/s of vsockrpc / grpc".
func (g goal) title() string {
	if g.base == "" {
		return g.metric.name
	}
	return fmt.Sprintf("%s, %s / %s", g.metric.name, g.peer, g.base)
}

// writeOverview prints the main metric of each scenario, and in brackets the
// ratio to the limit.
func (r report) writeOverview(w io.Writer) {
	columns := append(stacks(oursPooled), oursNoSpin)
	fmt.Fprintf(w, "| work | limit | %s |\n|---|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, s := range scenarios {
		m := s.load.Kind.main()
		limit := r.results.values(s.name, s.limit, m)
		fmt.Fprintf(w, "| %s: %s | %s", s.name, m.title(), summarize(limit))
		for _, name := range columns {
			v := r.results.values(s.name, name, m)
			if len(v) == 0 {
				fmt.Fprint(w, " |")
				continue
			}
			fmt.Fprintf(w, " | %s (%s)", summarize(v), summarize(ratios(v, limit)))
		}
		fmt.Fprintln(w, " |")
	}
	fmt.Fprintln(w)
}

// writeDetails prints everything else that was measured of calls and streams.
func (r report) writeDetails(w io.Writer) {
	columns := []metric{p50, p99, cpuCall, allocsC, allocsS, writesC, writesS}
	fmt.Fprint(w, "| work (per call or message) | peer | × limit | spread")
	for _, m := range columns {
		fmt.Fprintf(w, " | %s", m.title())
	}
	fmt.Fprintf(w, " |\n|---|---|---|---|%s\n", strings.Repeat("---|", len(columns)))
	for _, s := range scenarios {
		if s.load.Kind == idle {
			continue
		}
		m := s.load.Kind.main()
		limit := r.results.values(s.name, s.limit, m)
		for _, name := range s.allPeers() {
			v := r.results.values(s.name, name, m)
			if len(v) == 0 {
				continue
			}
			x := summarize(ratios(v, limit))
			fmt.Fprintf(w, "| %s | %s | %s | %s", s.name, name, x, x.spread())
			for _, m := range columns {
				value := summarize(r.results.values(s.name, name, m))
				if (m.name == p50.name || m.name == p99.name) && value.median == 0 {
					value = summary{}
				}
				fmt.Fprintf(w, " | %s", value)
			}
			fmt.Fprintln(w, " |")
		}
	}
	fmt.Fprintln(w)
}

// writeIdle prints what an idle connection holds.
func (r report) writeIdle(w io.Writer) {
	columns := []metric{memoryS, memoryC, routineS, routineC}
	fmt.Fprint(w, "| idle connection")
	for _, m := range columns {
		fmt.Fprintf(w, " | %s", m.title())
	}
	fmt.Fprintf(w, " |\n|---|%s\n", strings.Repeat("---|", len(columns)))
	for _, name := range scenarioByName(idleConns).allPeers() {
		if len(r.results.values(idleConns, name, memoryS)) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s", name)
		for _, m := range columns {
			fmt.Fprintf(w, " | %s", summarize(r.results.values(idleConns, name, m)))
		}
		fmt.Fprintln(w, " |")
	}
	fmt.Fprintln(w)
}
