package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// currentUsage reads what this process has spent.
func currentUsage() (usage, error) {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return usage{}, err
	}
	writes, err := writeCalls()
	if err != nil {
		return usage{}, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{
		CPU:     time.Duration(ru.Utime.Nano() + ru.Stime.Nano()),
		Allocs:  m.Mallocs,
		Writes:  writes,
		Memory:  int64(m.HeapAlloc + m.StackInuse),
		Routine: runtime.NumGoroutine(),
	}, nil
}

// writeCalls returns the number of write system calls of this process.
func writeCalls() (uint64, error) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(b, []byte("syscw: "))
	if !ok {
		return 0, errors.New("/proc/self/io has no syscw")
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return strconv.ParseUint(string(line), 10, 64)
}

// open makes the clients of a scenario, and warms them up.
func (c *child) open(cmd command) error {
	for range max(1, cmd.Conns) {
		cl, err := c.peer.connect(c.path)
		if err != nil {
			return err
		}
		c.clients = append(c.clients, cl)
		if cmd.Load.Kind != idle {
			continue
		}
		call, err := cl.caller(cmd.Load.Size)
		if err != nil {
			return err
		}
		if err := call(); err != nil {
			return err
		}
	}
	cl := c.clients[len(c.clients)-1]
	sizes := make([]int, cmd.Load.Callers)
	for i := range sizes {
		sizes[i] = cmd.Load.Size
	}
	if cmd.Load.Kind == mixed {
		sizes = []int{cmd.Load.Size, mixedSize, mixedSize}
	}
	for _, size := range sizes {
		call, err := cl.caller(size)
		if err != nil {
			return err
		}
		c.calls = append(c.calls, call)
	}
	if cmd.For == 0 {
		return nil
	}
	_, err := c.load(cmd.Load, cmd.For)
	return err
}

// run measures one window on what open has made.
func (c *child) run(cmd command) (result, error) {
	before, err := currentUsage()
	if err != nil {
		return result{}, err
	}
	r, err := c.load(cmd.Load, cmd.For)
	if err != nil {
		return result{}, err
	}
	after, err := currentUsage()
	r.Client = after.since(before)
	return r, err
}

func (c *child) load(l load, d time.Duration) (result, error) {
	stop := new(atomic.Bool)
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	start := time.Now()
	var r result
	var err error
	switch l.Kind {
	case unary:
		r, err = c.loadUnary(stop)
	case mixed:
		r, err = c.loadMixed(stop)
	case down:
		r.Calls, err = c.clients[0].down(l.Size, d)
	case up:
		r.Calls, err = c.clients[0].up(l.Size, during(d))
	case dial:
		r, err = c.loadDial(l.Size, stop)
	default:
		err = fmt.Errorf("no load %q", l.Kind)
	}
	r.Elapsed = time.Since(start)
	return r, err
}

// repeat calls once, and then until stop is set.
func repeat(call func() error, stop *atomic.Bool) (int, error) {
	for n := 0; ; {
		if err := call(); err != nil {
			return n, err
		}
		n++
		if stop.Load() {
			return n, nil
		}
	}
}

// repeatTimed is repeat, and adds each call's time to t.
func repeatTimed(call func() error, stop *atomic.Bool, t *times) (int, error) {
	last := time.Now()
	return repeat(func() error {
		err := call()
		now := time.Now()
		t.add(now.Sub(last))
		last = now
		return err
	}, stop)
}

func (c *child) loadUnary(stop *atomic.Bool) (r result, err error) {
	if len(c.calls) == 1 {
		t := newTimes()
		r.Calls, err = repeatTimed(c.calls[0], stop, t)
		r.P50, r.P99 = t.quantile(0.5), t.quantile(0.99)
		return r, err
	}
	counts, err := inParallel(c.calls, stop)
	for _, n := range counts {
		r.Calls += n
	}
	return r, err
}

func (c *child) loadMixed(stop *atomic.Bool) (r result, err error) {
	t := newTimes()
	var small error
	var wg sync.WaitGroup
	wg.Go(func() { r.Calls, small = repeatTimed(c.calls[0], stop, t) })
	counts, err := inParallel(c.calls[1:], stop)
	wg.Wait()
	for _, n := range counts {
		r.BigCalls += n
	}
	r.P50, r.P99 = t.quantile(0.5), t.quantile(0.99)
	return r, errors.Join(small, err)
}

// inParallel repeats each call in a goroutine of its own.
func inParallel(calls []func() error, stop *atomic.Bool) ([]int, error) {
	counts, errs := make([]int, len(calls)), make([]error, len(calls))
	var wg sync.WaitGroup
	for i, call := range calls {
		wg.Go(func() { counts[i], errs[i] = repeat(call, stop) })
	}
	wg.Wait()
	return counts, errors.Join(errs...)
}

// maxDials bounds what a window of dials leaves behind in both processes.
const maxDials = 500

func (c *child) loadDial(size int, stop *atomic.Bool) (r result, err error) {
	t := newTimes()
	for r.Calls == 0 || r.Calls < maxDials && !stop.Load() {
		start := time.Now()
		cl, err := c.peer.connect(c.path)
		if err != nil {
			return r, err
		}
		call, err := cl.caller(size)
		if err == nil {
			err = call()
		}
		t.add(time.Since(start))
		if err := errors.Join(err, cl.close()); err != nil {
			return r, err
		}
		r.Calls++
	}
	r.P50, r.P99 = t.quantile(0.5), t.quantile(0.99)
	return r, nil
}

// times collects durations without allocating. What exceeds its capacity is
// not kept: it is more than a window holds.
type times struct{ all []time.Duration }

func newTimes() *times { return &times{make([]time.Duration, 0, 1<<17)} }

func (t *times) add(d time.Duration) {
	if len(t.all) < cap(t.all) {
		t.all = append(t.all, d)
	}
}

// quantile returns the time that the share q of all does not exceed.
func (t *times) quantile(q float64) time.Duration {
	if len(t.all) == 0 {
		return 0
	}
	slices.Sort(t.all)
	return t.all[min(len(t.all)-1, int(q*float64(len(t.all))))]
}
