package process

import (
	"google.golang.org/grpc/codes"

	agentfault "github.com/vsockrpc/vsockrpc/agent/internal/fault"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// The stable words of this package's errors (ErrorDetail.reason).
const (
	reasonAgentRestarted = "agent-restarted"
	reasonAgentStopping  = "agent-stopping"
	reasonNoSession      = "no-session"
	reasonSessionGone    = "session-gone"
	reasonSessionRunning = "session-running"
	reasonNameTaken      = "name-taken"
	reasonTooMany        = "too-many-sessions"
	reasonOwnerPresent   = "owner-present"
	reasonNotOwner       = "not-owner"
	reasonForeignSession = "foreign-session"
	reasonTakenOver      = "taken-over"
	reasonProtocol       = "protocol"
	reasonOffsetAhead    = "offset-ahead"
	reasonStdinGap       = "stdin-gap"
	reasonStdinWindow    = "stdin-window-exceeded"
	reasonNoStdin        = "no-stdin"
	reasonNoTerminal     = "no-terminal"
	reasonNoProcess      = "no-process"
	reasonBadSignal      = "bad-signal"
	reasonBadSpec        = "bad-spec"
	reasonNul            = "nul-byte"
	reasonArgsTooLong    = "arguments-too-long"
	reasonNotFound       = "not-found"
	reasonNotExecutable  = "not-executable"
	reasonWrongArch      = "wrong-architecture"
	reasonNoInterpreter  = "no-interpreter"
	reasonBadFormat      = "bad-format"
	reasonNoUser         = "no-such-user"
	reasonNoGroup        = "no-such-group"
	reasonBadDir         = "bad-directory"
	reasonNotPermitted   = "not-permitted"
	reasonNoProcesses    = "processes-exhausted"
	reasonNoFiles        = "files-exhausted"
	reasonNoMemory       = "memory-exhausted"
	reasonNoNull         = "no-null-device"
	reasonNoCgroup       = "cgroup-unavailable"
	reasonNoLauncher     = "launcher-unavailable"
	reasonStartTimeout   = "start-timeout"
	reasonFailed         = "failed"
)

// fault is the error that all services of the agent answer with.
type fault = agentfault.Error

// newFault returns a fault whose text is formatted from format and args.
func newFault(code codes.Code, reason, format string, args ...any) *fault {
	return agentfault.New(code, reason, format, args...)
}

func offsetAhead(stream guestv1.Stream, off, end uint64) *fault {
	return newFault(codes.OutOfRange, reasonOffsetAhead, "%v has no byte %d: it ends at %d so far", streamWord(stream), off, end)
}

func ownerPresent() *fault {
	return newFault(codes.FailedPrecondition, reasonOwnerPresent, "another client is attached as owner").
		Hint("attach as an observer, or take over")
}

func takenOver() *fault {
	return newFault(codes.Aborted, reasonTakenOver, "another client has taken over the session")
}

func noStdin() *fault {
	return newFault(codes.FailedPrecondition, reasonNoStdin, "the session was started without stdin")
}

func stdinGap(off, end uint64) *fault {
	return newFault(codes.InvalidArgument, reasonStdinGap, "stdin goes on at byte %d, not at %d", end, off)
}

func stdinAfterEnd(off, end uint64) *fault {
	return newFault(codes.InvalidArgument, reasonProtocol, "stdin was ended at byte %d and cannot have byte %d", end, off)
}

func stdinBeyond(last, limit uint64) *fault {
	return newFault(codes.InvalidArgument, reasonStdinWindow, "stdin up to byte %d is beyond the window, which ends at %d", last, limit)
}

func streamWord(s guestv1.Stream) string {
	switch s {
	case guestv1.Stream_STREAM_STDIN:
		return "stdin"
	case guestv1.Stream_STREAM_STDOUT:
		return "stdout"
	case guestv1.Stream_STREAM_STDERR:
		return "stderr"
	}
	return s.String()
}

func noSession(what string) *fault {
	return newFault(codes.NotFound, reasonNoSession, "there is no session %s", what).
		Hint("list the sessions; those that ended are kept for a time only")
}

func goneFault(id sessionID) *fault {
	return newFault(codes.NotFound, reasonSessionGone, "session %s has ended and is forgotten", id)
}

func stoppingFault() *fault {
	return newFault(codes.Unavailable, reasonAgentStopping, "the agent stops")
}

func restartedFault() *fault {
	// Not Unavailable, by which clients would retry.
	return newFault(codes.Aborted, reasonAgentRestarted, "the agent has restarted and the session is lost").
		Hint("start it again, if that is safe: it may have done part of its work")
}

func notOwner() *fault {
	return newFault(codes.FailedPrecondition, reasonNotOwner, "an observer may only read").
		Hint("attach as the owner")
}

func noTerminal() *fault {
	return newFault(codes.FailedPrecondition, reasonNoTerminal, "the session has no terminal")
}
