package guest

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// signalTimeout bounds how long Process.Signal waits for the agent.
const signalTimeout = 10 * time.Second

// Process is the process of a started Cmd. Its methods may be called
// concurrently.
type Process struct {
	Pid int       // in the guest
	ID  SessionID // of its session

	g *Guest
	s *session // nil if nobody is attached

	started *guestv1.SessionInfo // without being attached

	killed atomic.Bool // by killGroup
}

// Signal sends a signal to the process alone, as os.Process.Signal does. Use a
// [Signal] for those whose number differs between systems. The error is
// os.ErrProcessDone if the process has ended.
func (p *Process) Signal(sig os.Signal) error { return p.signal(sig, false) }

// SignalGroup sends a signal to the process and all of its process group, as a
// terminal does with Ctrl-C. SIGKILL is for everything that the session has
// started, wherever that has gone.
func (p *Process) SignalGroup(sig os.Signal) error { return p.signal(sig, true) }

// Kill ends the process with SIGKILL, as os.Process.Kill does.
func (p *Process) Kill() error { return p.Signal(Signal(9)) }

func (p *Process) signal(sig os.Signal, group bool) error {
	if p.s != nil && p.s.ended() {
		return os.ErrProcessDone
	}
	n, err := guestSignal(sig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), signalTimeout)
	defer cancel()
	err = p.g.SignalSession(ctx, p.ID, n, &SignalOptions{Group: group})
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == reasonNoProcess {
		return os.ErrProcessDone
	}
	return err
}

// killGroup has everything that the session has started killed as soon as the agent can be
// told, also after a lost connection.
func (p *Process) killGroup() error {
	p.killed.Store(true)
	if p.s == nil {
		return p.signal(Signal(9), true)
	}
	if p.s.ended() {
		return os.ErrProcessDone
	}
	p.s.update(func() { p.s.kill = &guestv1.SendSignal{Signal: 9} })
	return nil
}

// Resize tells the session's terminal its new size. It has no effect without
// one. An observer may not do this.
func (p *Process) Resize(rows, columns int) error {
	return p.resize(windowSize(rows, columns))
}

// Redraw is Resize, and has a full-screen program draw all of the screen again, even
// if the terminal has this size already.
func (p *Process) Redraw(rows, columns int) error {
	size := windowSize(rows, columns)
	size.Redraw = true
	return p.resize(size)
}

func (p *Process) resize(size *guestv1.WindowSize) error {
	if p.s == nil || p.s.ended() {
		return os.ErrProcessDone
	}
	if p.s.observes() {
		return p.g.wrap("resize", "", observerError())
	}
	p.s.update(func() { p.s.size, p.s.sized = size, false })
	return nil
}

// Detach leaves the process running in the guest without an owner: its output
// is kept as far as the session's ring holds it, and [Guest.Attach] has it
// back. [Cmd.Wait] returns an error with ReasonLeft.
func (p *Process) Detach() error { return p.leave(true) }

// HangUp leaves on purpose: the guest ends the session at once, with SIGHUP,
// SIGTERM and, 2 s later, SIGKILL to everything that it has started. [Cmd.Wait] does not
// wait for that and returns an error with ReasonLeft.
func (p *Process) HangUp() error { return p.leave(false) }

func (p *Process) leave(keep bool) error {
	if p.s == nil {
		return nil
	}
	if p.s.ended() {
		return os.ErrProcessDone
	}
	p.s.update(func() { p.s.leave = &guestv1.Leave{Keep: keep} })
	select {
	case <-p.s.done:
	case <-time.After(leaveTimeout):
		// The agent cannot be told. It finds out by itself.
		p.s.stop(context.Canceled)
		<-p.s.done
	}
	return nil
}

// SessionInfo returns what the agent said of the session when it was started or
// attached.
func (p *Process) SessionInfo() *guestv1.SessionInfo {
	if p.s == nil {
		return p.started
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.s.info
}

func windowSize(rows, columns int) *guestv1.WindowSize {
	return &guestv1.WindowSize{Rows: uint32(max(rows, 0)), Columns: uint32(max(columns, 0))}
}
