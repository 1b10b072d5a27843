//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

// footprint is what a process takes.
type footprint struct {
	descriptors, goroutines int
	resident                int64 // bytes
}

// memoryTolerance is how much more memory than after its first work an agent may
// have at the end: what Go's collector keeps for the next load.
const memoryTolerance = 24 << 20

// leakedSince reports what f has more than before.
func (f footprint) leakedSince(before footprint) error {
	var errs []error
	if f.descriptors > before.descriptors {
		errs = append(errs, fmt.Errorf("%d descriptors, at the start %d", f.descriptors, before.descriptors))
	}
	if f.goroutines > before.goroutines {
		errs = append(errs, fmt.Errorf("%d goroutines, at the start %d", f.goroutines, before.goroutines))
	}
	if before.resident > 0 && f.resident > before.resident+memoryTolerance {
		errs = append(errs, fmt.Errorf("%d MiB of memory, at the start %d", f.resident>>20, before.resident>>20))
	}
	return errors.Join(errs...)
}

// ownFootprint returns this process's. Its memory holds what it has to
// remember, and does not count.
func ownFootprint() (footprint, error) {
	open, err := descriptors(os.Getpid())
	return footprint{descriptors: len(open), goroutines: runtime.NumGoroutine()}, err
}

// footprint returns that of the machine's agent. Goroutines are counted at its
// end only.
func (m *machine) footprint() (footprint, error) {
	open, err := descriptors(m.pid())
	if err != nil {
		return footprint{}, err
	}
	f := footprint{descriptors: len(open)}
	f.resident, err = residentBytes(m.pid())
	return f, err
}

// warmUp has the agent do some work of each kind, and takes its footprint then.
func (m *machine) warmUp(ctx context.Context) error {
	for range 5 {
		if err := m.probe.Command(ctx, "/bin/true").Run(); err != nil {
			return err
		}
	}
	from := filepath.Join(m.dir, "warm")
	if err := os.WriteFile(from, randomBytes(rand.New(rand.NewPCG(1, 1)), 1<<20), 0o600); err != nil {
		return err
	}
	for _, to := range []string{from + "1", from + "2"} {
		if _, err := m.probe.Files().CopyTo(ctx, []string{from}, to, nil); err != nil {
			return err
		}
		if _, err := m.probe.Files().CopyFrom(ctx, []string{to}, to+"back", nil); err != nil {
			return err
		}
	}
	c, err := m.probe.DialContext(ctx, "tcp", m.s.echo.addr())
	if err != nil {
		return err
	}
	c.Close()
	return eventually(func() error {
		all, err := m.probe.Sessions(ctx)
		if err == nil && len(all) > 0 {
			err = fmt.Errorf("%d sessions", len(all))
		}
		if err == nil {
			m.base, err = m.footprint()
		}
		return err
	})
}

// checkClients compares what was said to be done with what was done.
func (s *soak) checkClients() {
	ran := make(map[string]int)
	for _, m := range s.machines {
		lines, err := countLines(m.journal())
		if err != nil {
			s.violate("%v: %v", m, err)
		}
		for id, n := range lines {
			ran[id] += n
		}
	}
	for _, c := range s.clients {
		for id, o := range c.execs {
			s.count(c, "exec "+id, o, ran[id])
			delete(ran, id)
		}
		if c.guest != nil {
			records, err := countLines(c.records())
			if err != nil {
				s.violate("client %d: %v", c.number, err)
			}
			for id, o := range c.writes {
				s.count(c, "record "+id, o, records[id])
				delete(records, id)
			}
			for id := range records {
				s.violate("client %d: the record %q was never written", c.number, id)
			}
		}
		for _, f := range []*copied{&c.up, &c.down} {
			if err := f.check(); err != nil {
				s.violate("client %d: %v", c.number, err)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(f.to), ".vsockrpc-*"))
			if err != nil || len(left) > 0 {
				s.violate("client %d: parts of copies are left: %q, %v", c.number, left, err)
			}
		}
	}
	for id := range ran {
		s.violate("exec %s ran, and nobody asked for it", id)
	}
}

// count checks how often something was done.
func (s *soak) count(c *client, what string, o outcome, times int) {
	s.stats.acknowledged(o, times)
	switch {
	case times > 1:
		s.violate("%s of client %d was done %d times", what, c.number, times)
	case o == done && times == 0:
		s.violate("%s of client %d is lost", what, c.number)
	}
}

// countLines returns how often each line is in a file.
func countLines(name string) (map[string]int, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	lines := make(map[string]int)
	for line := range bytes.Lines(data) {
		lines[strings.TrimSuffix(string(line), "\n")]++
	}
	return lines, err
}

// checkMachines checks that the agents have nothing left of all that was.
func (s *soak) checkMachines() {
	for _, c := range s.clients {
		c.close()
	}
	for _, m := range s.machines {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		var now footprint
		err := eventually(func() error {
			if err := m.noSessions(ctx); err != nil {
				return err
			}
			below, err := descendants(m.pid())
			if err == nil && len(below) > 0 {
				err = fmt.Errorf("processes are left: %v", below)
			}
			if err != nil {
				return err
			}
			if now, err = m.footprint(); err != nil {
				return err
			}
			return now.leakedSince(m.base)
		})
		cancel()
		if err != nil {
			s.violate("%v: %v", m, err)
		}
		if now.goroutines, err = m.goroutines(); err != nil {
			s.violate("%v: %v", m, err)
		}
		s.stats.agent(m, now)
	}
}

// noSessions removes the sessions that have ended, and fails if others are left.
func (m *machine) noSessions(ctx context.Context) error {
	all, err := m.probe.Sessions(ctx)
	if err != nil {
		return err
	}
	running := 0
	for _, info := range all {
		if info.GetExit() == nil {
			running++
			continue
		}
		id, err := guest.SessionIDFromBytes(info.SessionId)
		if err != nil {
			return err
		}
		if err := m.probe.RemoveSession(ctx, id, nil); err != nil {
			return err
		}
	}
	if running > 0 {
		return fmt.Errorf("%d sessions still run", running)
	}
	return nil
}

// idleGoroutines is how many goroutines an idle agent with one connection may
// have.
const idleGoroutines = 30

var goroutineLine = regexp.MustCompile(`(?m)^goroutine \d+ `)

// goroutines ends the agent by SIGQUIT, on which it prints its goroutines, and
// returns how many there are.
func (m *machine) goroutines() (int, error) {
	before, err := os.Stat(m.log())
	if err != nil {
		return 0, err
	}
	if err := m.signal(syscall.SIGQUIT); err != nil {
		return 0, err
	}
	<-m.ended
	data, err := os.ReadFile(m.log())
	if err != nil {
		return 0, err
	}
	n := len(goroutineLine.FindAll(data[before.Size():], -1))
	if n == 0 || n > idleGoroutines {
		return n, fmt.Errorf("the agent has %d goroutines, want 1 to %d; see %s", n, idleGoroutines, m.log())
	}
	return n, nil
}
