//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// kind is a kind of fault.
type kind int

// The kinds of faults. The last three need a kernel of their own.
const (
	reset         kind = iota // all connections are reset
	pause                     // the agent is stopped, and no byte passes
	snapshot                  // a pause, after which the connections are gone
	agentKill                 // SIGKILL to the agent, which is then started again
	hostCtlKill               // SIGKILL to a host-ctl
	diskFull                  // the file system of the copies is full for a while
	noFiles                   // the agent has no descriptor left for a while
	clockForward              // the clock jumps a day ahead
	clockBack                 // the clock jumps a day back
	memoryNeeded              // a program takes all memory that the agent's cgroup may have
	numberOfKinds = iota
)

var kindNames = [numberOfKinds]string{"reset", "pause", "snapshot", "agent-kill", "host-ctl-kill", "disk-full", "no-files",
	"clock+1d", "clock-1d", "memory"}

func (k kind) String() string { return kindNames[k] }

// fault is one fault of one machine.
type fault struct {
	kind kind
	at   time.Duration // from the beginning, or when the fault before is over
	// lasts is how long the machine is in this state: paused, without an agent,
	// with a full disk.
	lasts time.Duration
	pick  uint64 // chooses what is hit, where there is a choice
}

func (f fault) String() string {
	return fmt.Sprintf("%v at %v for %v", f.kind, f.at.Round(time.Millisecond), f.lasts.Round(time.Millisecond))
}

// meanGap is the mean time between two faults of a machine.
const meanGap = 2 * time.Second

// schedule returns the faults of a machine. It depends on its arguments alone.
// Each kind comes once before any comes again.
func schedule(seed uint64, machine int, kinds []kind, total time.Duration) []fault {
	if len(kinds) == 0 {
		return nil
	}
	r := rand.New(rand.NewPCG(seed, uint64(machine)))
	between := func(from, to time.Duration) time.Duration { return from + time.Duration(r.Int64N(int64(to-from))) }
	longest := 20 * time.Second
	if total < 3*time.Minute {
		longest = 4 * time.Second
	}
	var faults []fault
	var round []kind
	for at := between(0, meanGap); at < total; {
		if len(round) == 0 {
			round = append(round, kinds...)
			r.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		}
		f := fault{kind: round[0], at: at, pick: r.Uint64()}
		round = round[1:]
		switch f.kind {
		case pause:
			f.lasts = between(time.Second, longest)
		case snapshot:
			f.lasts = between(100*time.Millisecond, longest/2)
		case agentKill:
			f.lasts = between(0, 500*time.Millisecond)
		case diskFull, noFiles:
			f.lasts = between(time.Second, 3*time.Second)
		}
		faults = append(faults, f)
		at += f.lasts + between(meanGap/2, meanGap*3/2)
	}
	return faults
}
