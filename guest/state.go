package guest

import (
	"strconv"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// ProcessState is how a session of a guest ended. Its methods are those of
// os.ProcessState, and more. All may be called concurrently.
type ProcessState struct {
	pid  int
	exit *guestv1.Exit
	lost [2]uint64
}

// Pid returns the process id that the process had in the guest.
func (p *ProcessState) Pid() int { return p.pid }

// Exited reports whether the process has exited, rather than been ended by a
// signal.
func (p *ProcessState) Exited() bool { return p.exit.Code != nil }

// ExitCode returns the exit code of the process, or -1 if it was ended by a
// signal. It is -1 for a nil state too.
func (p *ProcessState) ExitCode() int {
	if p == nil || p.exit.Code == nil {
		return -1
	}
	return int(p.exit.GetCode())
}

// Success reports whether the process exited with code 0.
func (p *ProcessState) Success() bool { return p.ExitCode() == 0 }

// Signal returns the signal that ended the process, or 0.
func (p *ProcessState) Signal() Signal { return Signal(p.exit.GetSignal()) }

// CoreDumped reports whether the process left a core dump.
func (p *ProcessState) CoreDumped() bool { return p.exit.GetCoreDumped() }

// TimedOut reports whether the guest ended the process because its time
// ([Cmd.Timeout]) was over.
func (p *ProcessState) TimedOut() bool { return p.exit.GetTimedOut() }

// OOMKilled reports whether the process was killed for want of memory.
func (p *ProcessState) OOMKilled() bool { return p.exit.GetOomKilled() }

// OutputHeldOpen reports whether output was cut some time after the exit of the
// process, since another process still holds a stream open.
func (p *ProcessState) OutputHeldOpen() bool { return p.exit.GetOutputHeldOpen() }

// Reason says, for people and in the guest's words, why the session ended other
// than by itself. It is empty if it ended by itself.
func (p *ProcessState) Reason() string { return p.exit.GetReason() }

// StartTime and EndTime are by the guest's clock.
func (p *ProcessState) StartTime() time.Time { return time.Unix(0, p.exit.GetStartUnixNanos()) }

// EndTime is when the process ended, by the guest's clock.
func (p *ProcessState) EndTime() time.Time { return time.Unix(0, p.exit.GetEndUnixNanos()) }

// UserTime returns the user CPU time of the process and of the children that it
// has waited for.
func (p *ProcessState) UserTime() time.Duration {
	return micros(p.exit.GetUsage().GetUserMicros())
}

// SystemTime returns the system CPU time of the process and of the children
// that it has waited for.
func (p *ProcessState) SystemTime() time.Duration {
	return micros(p.exit.GetUsage().GetSystemMicros())
}

// MaxRSS returns the largest resident set of the process, or of one of the children
// that it has waited for, in bytes; 0 if that was less than the agent's own, which
// hides it.
func (p *ProcessState) MaxRSS() uint64 { return p.exit.GetUsage().GetMaxResidentBytes() }

// Lost returns how many bytes of stdout (1) or stderr (2) this reader did not
// get: dropped by the session's policy, or by an observer's falling behind.
func (p *ProcessState) Lost(fd int) uint64 {
	if fd < 1 || fd > 2 {
		return 0
	}
	return p.lost[fd-1]
}

// Sys returns the agent's message, a *guestv1.Exit.
func (p *ProcessState) Sys() any { return p.exit }

// SysUsage returns the agent's message, a *guestv1.ResourceUsage.
func (p *ProcessState) SysUsage() any { return p.exit.GetUsage() }

// String describes the end in the words of os.ProcessState, such as
// "exit status 7" or "signal: killed (core dumped)".
func (p *ProcessState) String() string {
	if p == nil {
		return "<nil>"
	}
	var s string
	if p.Exited() {
		s = "exit status " + strconv.Itoa(p.ExitCode())
	} else {
		s = "signal: " + p.Signal().String()
	}
	if p.CoreDumped() {
		s += " (core dumped)"
	}
	switch {
	case p.TimedOut():
		s += " (timed out)"
	case p.OOMKilled():
		s += " (out of memory)"
	}
	return s
}

// micros converts without overflow: a hostile guest may claim anything.
func micros(n uint64) time.Duration {
	const largest = uint64(1<<63-1) / uint64(time.Microsecond)
	return time.Duration(min(n, largest)) * time.Microsecond
}

// ExitError reports a command that ran and did not succeed, as exec.ExitError
// does.
type ExitError struct {
	*ProcessState

	// Stderr holds a part of the standard error output if it was not otherwise
	// collected: the first and the last 32 KiB. Set by [Cmd.Output] only.
	Stderr []byte
}

// Error returns the state's description.
func (e *ExitError) Error() string { return e.ProcessState.String() }
