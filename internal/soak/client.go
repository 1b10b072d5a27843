//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
)

// client is a program that works with a machine, one operation after another.
type client struct {
	s       *soak
	machine *machine
	number  int
	hostCtl bool         // its operations are runs of host-ctl
	guest   *guest.Guest // nil if hostCtl

	dir      string // here
	shared   string // in the machine, on a file system that never gets full
	up, down copied // what copies have made
	agents   int64  // of the machine, when the last operation that was done began

	mu     sync.Mutex
	execs  map[string]outcome // by id
	writes map[string]outcome // records
}

// outcome is what became of something.
type outcome int

const (
	refused outcome = iota // it may have been done or not
	done                   // it was said to be done
)

// operation is one thing that a client does.
type operation struct {
	id     string
	work   work
	random *rand.Rand
}

// work is a kind of operation.
type work int

// The kinds of work.
const (
	calls work = iota
	execEcho
	execSlow
	detached
	writeFile
	copyTo
	copyFrom
	forward
	ctlExec
	ctlCopyTo
	ctlCopyFrom
	kindsOfWork = iota
)

var workNames = [kindsOfWork]string{"calls", "exec, stdin to stdout", "exec, slow output", "detached session", "file written",
	"copy to", "copy from", "forward", "host-ctl exec", "host-ctl cp to", "host-ctl cp from"}

func (w work) String() string { return workNames[w] }

var (
	sdkWork = []work{calls, execEcho, execSlow, detached, writeFile, copyTo, copyFrom, forward}
	ctlWork = []work{ctlExec, ctlExec, ctlCopyTo, ctlCopyFrom}
)

// newClient makes a client, which has a connection. One in eight is host-ctl.
func (s *soak) newClient(ctx context.Context, number int) (*client, error) {
	m := s.machines[number%len(s.machines)]
	c := &client{s: s, machine: m, number: number, hostCtl: number/len(s.machines)%8 == 7,
		execs: make(map[string]outcome), writes: make(map[string]outcome)}
	c.dir, c.shared = filepath.Join(s.dir, fmt.Sprint("c", number)), filepath.Join(m.dir, fmt.Sprint("c", number))
	for _, dir := range []string{c.dir, c.shared, filepath.Join(m.files, fmt.Sprint(number))} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	c.up = copied{from: filepath.Join(c.dir, "up"), to: filepath.Join(m.files, fmt.Sprint(number), "up")}
	c.down = copied{from: filepath.Join(c.shared, "down"), to: filepath.Join(c.dir, "down")}
	var err error
	if !c.hostCtl {
		c.guest, err = m.dial(ctx)
	}
	return c, err
}

func (c *client) kindsOfWork() []work {
	if c.hostCtl {
		return ctlWork
	}
	return sdkWork
}

// operation returns the client's nth operation, which follows from the seed.
func (c *client) operation(n int, w *work) *operation {
	r := rand.New(rand.NewPCG(c.s.opts.seed, uint64(c.number)<<32|uint64(n)|1<<63))
	kinds := c.kindsOfWork()
	op := &operation{id: fmt.Sprintf("c%d-%d", c.number, n), work: kinds[r.IntN(len(kinds))], random: r}
	if w != nil {
		op.work = *w
	}
	return op
}

// work does one operation after the other until ctx is done.
func (c *client) work(ctx context.Context) {
	const meanThought = 250 * time.Millisecond
	for n := 0; ctx.Err() == nil; n++ {
		op := c.operation(n, nil)
		wait(ctx, time.Duration(op.random.Int64N(int64(2*meanThought))))
		if ctx.Err() == nil {
			c.do(op, false)
		}
	}
}

// final does one operation of each kind, none of which may fail.
func (c *client) final() {
	kinds := slices.Clone(c.kindsOfWork())
	slices.Sort(kinds)
	for i, w := range slices.Compact(kinds) {
		c.do(c.operation(1<<30+i, &w), true)
	}
}

// do does an operation and judges its result.
func (c *client) do(op *operation, mustSucceed bool) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), opLimit, errHung)
	defer cancel()
	start, agents := time.Now(), c.machine.agents.Load()
	var err error
	switch op.work {
	case calls:
		err = c.calls(ctx, op)
	case execEcho:
		err = c.execEcho(ctx, op)
	case execSlow:
		err = c.execSlow(ctx, op)
	case detached:
		err = c.detached(ctx, op)
	case writeFile:
		err = c.writeFile(ctx, op)
	case copyTo:
		err = c.copyTo(ctx, op)
	case copyFrom:
		err = c.copyFrom(ctx, op)
	case forward:
		err = c.forward(ctx, op)
	case ctlExec:
		err = c.ctlExec(ctx, op)
	case ctlCopyTo:
		err = c.ctlCopyTo(ctx, op)
	case ctlCopyFrom:
		err = c.ctlCopyFrom(ctx, op)
	}
	took := time.Since(start)
	if context.Cause(ctx) == errHung {
		c.s.violate("%s (%v) of %v hangs, for %v: %v", op.id, op.work, c.machine, took, err)
		return
	}
	why, honest := c.honest(err)
	c.s.trace("%s %v: %s (%v)", op.id, op.work, why, took.Round(time.Millisecond))
	c.s.stats.operation(op.work, why, err == nil)
	switch {
	case err == nil:
		c.agents = agents
	case !honest:
		c.s.violate("%s (%v) of %v: %s: %v", op.id, op.work, c.machine, why, err)
	case mustSucceed || c.s.opts.strict:
		c.s.violate("%s (%v) of %v failed without a fault that explains it: %v", op.id, op.work, c.machine, err)
	}
}

// broken is an error that is a broken promise in itself.
type broken struct{ error }

func brokenf(format string, args ...any) error { return broken{fmt.Errorf(format, args...)} }

// honest returns what an operation failed of in a word, and whether that may be:
// the truth, in view of the faults that there were.
func (c *client) honest(err error) (why string, ok bool) {
	if err == nil {
		return "done", true
	}
	if _, is := errors.AsType[broken](err); is {
		return "broken", false
	}
	if many, is := errors.AsType[*guest.CopyError](err); is {
		for _, f := range many.Failures {
			if why, ok := c.honest(f); !ok {
				return why, false
			}
		}
		err = many.Failures[0]
	}
	if errors.Is(err, errKilled) {
		return "host-ctl killed", true
	}
	if e, is := errors.AsType[*guest.Error](err); is && e.Reason != "" {
		return e.Reason, c.allowed(e.Reason)
	}
	if e, is := errors.AsType[*ctlError](err); is {
		return c.honestText(e.stderr)
	}
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection-reset", true
	case errors.Is(err, syscall.ENOSPC):
		return "disk-full", c.machine.has(diskFull)
	}
	return "unexpected", false
}

// ctlWords find the reason in what host-ctl prints.
var ctlWords = []struct{ text, reason string }{
	{"session lost", "session-lost"},
	{"too many open files", "files-exhausted"},
	{"can open no more files", "files-exhausted"},
	{"no space left on device", "disk-full"},
	{"No space left on device", "disk-full"},
	{"file system is full", "disk-full"},
	{"connection lost", "unreachable"},
	{"no answer", "guest-booting"},
	{"the VMM hung up", "vmm-closed"},
	{"connection reset", "unreachable"},
	{"broken pipe", "unreachable"},
	{"deadline exceeded", "timeout"},
	{"connection was lost", "unreachable"},
}

func (c *client) honestText(text string) (why string, ok bool) {
	for _, w := range ctlWords {
		if strings.Contains(text, w.text) {
			return w.reason, c.allowed(w.reason)
		}
	}
	return "unexpected", false
}

// allowed reports whether a reason can be the truth.
func (c *client) allowed(reason string) bool {
	switch reason {
	case "session-lost", "agent-restarted", "no-session":
		// A client cannot know whether a request that got no answer had come
		// before the agent's end or after.
		return c.machine.agents.Load() > c.agents
	case "disk-full":
		return c.machine.has(diskFull)
	case "files-exhausted":
		return c.machine.has(noFiles)
	case "unreachable", "vmm-closed", "guest-booting", "not-listening", "timeout", "transfer-cut", "connection-reset", "transport-error":
		// A call that is not repeated by itself is cut by any of the faults.
		return true
	}
	return false
}

func (c *client) close() {
	if c.guest != nil {
		c.guest.Close()
	}
}

// note takes note of what became of id.
func (c *client) note(of map[string]outcome, id string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := refused
	if err == nil {
		o = done
	}
	of[id] = o
}
