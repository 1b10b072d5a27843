//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// envLab is the environment variable that says in which lab this runs.
const envLab = "VSOCKRPC_LAB"

// options say what to run.
type options struct {
	time     time.Duration
	seed     uint64
	clients  int
	machines int
	lines    int    // how many a slow command may print, at least 4
	agent    string // programs
	hostCtl  string
	full     bool // a file system may be mounted, to fill it
	verbose  bool
	out      io.Writer

	only   []kind // faults, instead of all that need no lab
	tls    bool   // for all machines, not one in four
	memory int64  // of the agent with its sessions, in bytes; 0: no limit
	// strict says that no fault here may make a call fail.
	strict bool
}

// soak is a run.
type soak struct {
	opts     options
	dir      string
	children *children
	echo     *echo
	machines []*machine
	clients  []*client
	began    time.Time
	before   footprint // of this process
	ended    chan struct{}
	stats    stats

	mu         sync.Mutex
	violations []string
	dropped    int
}

// opLimit is how long an operation may take until it counts as hung.
const opLimit = 2 * time.Minute

// run runs all of it, prints the report and returns how many promises were
// broken. An error says that there is no result.
func run(ctx context.Context, opts options) (int, error) {
	s := &soak{opts: opts, ended: make(chan struct{})}
	var err error
	if s.children, err = newChildren(); err != nil {
		return 0, err
	}
	if s.dir, err = os.MkdirTemp("", "soak"); err != nil {
		return 0, err
	}
	defer func() {
		if len(s.violations) > 0 {
			fmt.Fprintf(opts.out, "what the agents said is in %s\n", s.dir)
		} else {
			_ = os.RemoveAll(s.dir)
		}
	}()
	defer s.close()
	if s.before, err = ownFootprint(); err != nil {
		return 0, err
	}
	if err := s.setUp(ctx); err != nil {
		return 0, err
	}
	s.began = time.Now()
	s.drive(ctx)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	s.finalWork()
	s.checkClients()
	s.checkMachines()
	s.checkSelf()
	s.report()
	return len(s.violations), nil
}

// setUp starts machines and clients.
func (s *soak) setUp(ctx context.Context) error {
	var err error
	if s.echo, err = newEcho(); err != nil {
		return err
	}
	for i := range s.opts.machines {
		m, err := s.newMachine(i)
		if m != nil {
			s.machines = append(s.machines, m)
		}
		if err != nil {
			return fmt.Errorf("machine %d: %w", i, err)
		}
	}
	for _, m := range s.machines {
		if m.probe, err = m.dial(ctx); err != nil {
			return fmt.Errorf("%v: %w", m, err)
		}
		if err := m.warmUp(ctx); err != nil {
			return fmt.Errorf("%v: %w", m, err)
		}
	}
	for i := range s.opts.clients {
		c, err := s.newClient(ctx, i)
		if err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
		s.clients = append(s.clients, c)
	}
	return nil
}

// kinds returns the faults that a machine gets.
func (s *soak) kinds(number int) []kind {
	if s.opts.only != nil {
		return s.opts.only
	}
	kinds := []kind{reset, pause, snapshot, agentKill, hostCtlKill}
	switch {
	case number%4 == 0 && s.opts.full:
		kinds = append(kinds, diskFull)
	case number%4 == 1:
		kinds = append(kinds, noFiles)
	}
	return kinds
}

// drive lets the clients work and the faults happen until the time is over.
func (s *soak) drive(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.time)
	defer cancel()
	var faults, clients sync.WaitGroup
	for _, m := range s.machines {
		faults.Go(func() { m.injectAll(ctx, schedule(s.opts.seed, m.number, s.kinds(m.number), s.opts.time)) })
	}
	for _, c := range s.clients {
		clients.Go(func() { c.work(ctx) })
	}
	faults.Wait()
	clients.Wait()
}

// finalWork has each client do all of its work once more, without faults.
func (s *soak) finalWork() {
	var clients sync.WaitGroup
	for _, c := range s.clients {
		clients.Go(c.final)
	}
	clients.Wait()
	s.stats.took = time.Since(s.began)
}

// close ends everything that runs.
func (s *soak) close() {
	for _, c := range s.clients {
		c.close()
	}
	for _, m := range s.machines {
		if m.probe != nil {
			m.probe.Close()
		}
		m.close()
	}
	s.clients, s.machines = nil, nil
	if s.echo != nil {
		s.echo.close()
		s.echo = nil
	}
}

// checkSelf closes everything, and checks that nothing of it is left here.
func (s *soak) checkSelf() {
	s.close()
	if orphans, err := s.children.orphans(); err != nil || len(orphans) > 0 {
		s.violate("processes are left: %v, %v", orphans, err)
	}
	var now footprint
	err := eventually(func() error {
		var err error
		if now, err = ownFootprint(); err != nil {
			return err
		}
		return now.leakedSince(s.before)
	})
	if err != nil {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		name := filepath.Join(s.dir, "stacks")
		_ = os.WriteFile(name, stacks, 0o600)
		s.violate("in this process: %v; see %s", err, name)
	}
	s.stats.self = [2]footprint{s.before, now}
}

// maxViolations bounds how many are kept and printed.
const maxViolations = 50

// violate takes note of a broken promise.
func (s *soak) violate(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.violations) >= maxViolations {
		s.dropped++
		return
	}
	text := fmt.Sprintf("after %v: ", time.Since(s.began).Round(time.Millisecond)) + fmt.Sprintf(format, args...)
	s.violations = append(s.violations, text)
	fmt.Fprintf(s.opts.out, "BROKEN: %s\n", text)
}

// trace says what happens, if that is asked for.
func (s *soak) trace(format string, args ...any) {
	if !s.opts.verbose {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.opts.out, "%8.3f %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// eventually calls check until it finds nothing, and returns what it found last
// if that takes too long.
func eventually(check func() error) error {
	const limit = 40 * time.Second
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// tail returns the end of a file.
func tail(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4096):])
}

var errHung = errors.New("it hangs")
