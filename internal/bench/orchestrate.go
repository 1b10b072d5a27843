package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// results are all rounds of all peers in all scenarios.
type results struct {
	rounds map[measurement][]*result // nil: failed or left out
	failed []error
}

type measurement struct{ scenario, peer string }

// values returns a metric of each round, NaN where it failed.
func (r *results) values(scenarioName, peerName string, m metric) []float64 {
	var v []float64
	s := scenarioByName(scenarioName)
	for _, one := range r.rounds[measurement{scenarioName, peerName}] {
		if one == nil {
			v = append(v, math.NaN())
		} else {
			v = append(v, m.of(s.load, *one))
		}
	}
	return v
}

func (r *results) errors() []error { return r.failed }

// measureAll runs all rounds. A measurement that fails is recorded and its
// pair replaced; only what makes all measuring pointless is returned.
func measureAll(ctx context.Context, o options) (*results, error) {
	dir, err := os.MkdirTemp("", "vsockrpc-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	res := &results{rounds: make(map[measurement][]*result)}
	for _, place := range placements {
		cpus, err := place.cpus()
		if err != nil {
			fmt.Fprintf(o.progress, "%s: left out: %v\n", place, err)
			continue
		}
		b := &bench{ctx: ctx, options: o, dir: dir, place: place, cpus: cpus, results: res, pairs: make(map[string]*pair)}
		b.runPlacement()
		b.closeAll()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return res, nil
}

// cpus returns the CPUs of the server and of the client; nil: any.
func (p placement) cpus() ([2]*unix.CPUSet, error) {
	var allowed unix.CPUSet
	if p == free {
		return [2]*unix.CPUSet{}, nil
	}
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return [2]*unix.CPUSet{}, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var found []*unix.CPUSet
	for i := 0; i < 1024 && len(found) < 2; i++ {
		if allowed.IsSet(i) {
			one := new(unix.CPUSet)
			one.Set(i)
			found = append(found, one)
		}
	}
	if p == same {
		last := found[len(found)-1]
		return [2]*unix.CPUSet{last, last}, nil
	}
	if len(found) < 2 {
		return [2]*unix.CPUSet{}, errors.New("this process may use only one CPU")
	}
	return [2]*unix.CPUSet{found[1], found[0]}, nil
}

// A bench is the work in one placement.
type bench struct {
	options
	ctx     context.Context
	dir     string
	place   placement
	cpus    [2]*unix.CPUSet
	results *results
	pairs   map[string]*pair // by peer, kept up from round to round
	started int
	orders  uint64 // in which peers were measured
}

func (b *bench) runPlacement() {
	for round := range b.rounds {
		for _, s := range scenarios {
			if s.place != b.place || !b.only.MatchString(s.name) || s.most > 0 && round >= s.most {
				continue
			}
			times := max(s.times, 1)
			if b.quick {
				times = 1
			}
			for range times {
				b.runScenario(round, s)
			}
		}
	}
}

// runScenario measures all peers one after the other, in another order each time: who
// comes after a peer that leaves much garbage is slower.
func (b *bench) runScenario(round int, s scenario) {
	names := s.allPeers()
	fmt.Fprintf(b.progress, "round %d/%d %s:", round+1, b.rounds, s.name)
	b.orders++
	for _, i := range rand.New(rand.NewPCG(b.orders, 0)).Perm(len(names)) {
		name := names[i]
		if !b.peers.MatchString(name) || b.ctx.Err() != nil {
			continue
		}
		r, err := b.measure(s, name)
		if err != nil {
			err = fmt.Errorf("%s, %s: %w", s.name, name, err)
			b.results.failed = append(b.results.failed, err)
			fmt.Fprintf(b.progress, "\n%v\n", err)
			b.close(name)
		} else {
			fmt.Fprintf(b.progress, " %s %s", name, digits(s.load.Kind.main().of(s.load, *r)))
		}
		key := measurement{s.name, name}
		b.results.rounds[key] = append(b.results.rounds[key], r)
	}
	fmt.Fprintln(b.progress)
}

// pair returns the running pair of a peer, or starts it.
func (b *bench) pair(name string) (*pair, error) {
	if p := b.pairs[name]; p != nil {
		return p, nil
	}
	b.started++
	p, err := startPair(b.ctx, name, filepath.Join(b.dir, fmt.Sprintf("%s-%d.sock", b.place[:2], b.started)), b.cpus)
	if err != nil {
		return nil, err
	}
	b.pairs[name] = p
	return p, nil
}

func (b *bench) close(name string) {
	if p := b.pairs[name]; p != nil {
		p.close()
		delete(b.pairs, name)
	}
}

func (b *bench) closeAll() {
	for name := range b.pairs {
		b.close(name)
	}
}

// measure makes one measurement: connect and warm up, collect garbage in both
// processes, run the window, close.
func (b *bench) measure(s scenario, name string) (*result, error) {
	if s.load.Kind == idle {
		// A process that has done nothing else has nothing else to free.
		b.close(name)
		defer b.close(name)
	}
	p, err := b.pair(name)
	if err != nil {
		return nil, err
	}
	if s.load.Kind == idle {
		return p.measureIdle(s.load)
	}
	open := command{Op: opOpen, Load: s.load, For: b.warmup}
	if s.load.Kind == dial {
		open = command{Op: opOpen} // each dial makes its own
	}
	if _, err := p.client.do(open); err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if err := p.both(command{Op: opCollect}); err != nil {
		return nil, err
	}
	if b.profile != "" {
		if err := p.profile(filepath.Join(b.profile, s.name+"-"+name)); err != nil {
			return nil, err
		}
	}
	before, err := p.server.do(command{Op: opUsage})
	if err != nil {
		return nil, err
	}
	ran, err := p.client.do(command{Op: opRun, Load: s.load, For: b.window})
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	after, err := p.server.do(command{Op: opUsage})
	if err != nil {
		return nil, err
	}
	if b.profile != "" {
		if err := p.both(command{Op: opProfile}); err != nil {
			return nil, err
		}
	}
	if _, err := p.client.do(command{Op: opClose}); err != nil {
		return nil, fmt.Errorf("close: %w", err)
	}
	ran.Result.Server = after.Usage.since(before.Usage)
	return &ran.Result, nil
}

// measureIdle compares one connection with many more.
func (p *pair) measureIdle(l load) (*result, error) {
	if _, err := p.client.do(command{Op: opOpen, Load: l}); err != nil {
		return nil, err
	}
	before, err := p.settled()
	if err != nil {
		return nil, err
	}
	if _, err := p.client.do(command{Op: opOpen, Load: l, Conns: idleConnections}); err != nil {
		return nil, err
	}
	after, err := p.settled()
	if err != nil {
		return nil, err
	}
	return &result{
		Calls:  idleConnections,
		Server: after[0].since(before[0]),
		Client: after[1].since(before[1]),
	}, nil
}

// settled collects garbage until stacks have shrunk and timers that give idle
// buffers back have fired, and returns both sides' usage.
func (p *pair) settled() (u [2]usage, err error) {
	for range 5 {
		time.Sleep(100 * time.Millisecond)
		if err := p.both(command{Op: opCollect}); err != nil {
			return u, err
		}
	}
	for i, proc := range []*process{p.server, p.client} {
		r, err := proc.do(command{Op: opUsage})
		if err != nil {
			return u, err
		}
		u[i] = r.Usage
	}
	return u, nil
}

// onCPUs runs f on a thread that may use only these CPUs, so that a process
// started by f may not either, from its first instruction on.
func onCPUs(cpus *unix.CPUSet, f func() error) error {
	if cpus == nil {
		return f()
	}
	errc := make(chan error)
	go func() {
		// Not unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.SchedSetaffinity(0, cpus); err != nil {
			errc <- fmt.Errorf("sched_setaffinity: %w", err)
			return
		}
		errc <- f()
	}()
	return <-errc
}
