package guest

// The words of [Error.Reason]. docs/errors.md says what each means, and what to do; a
// word never changes its meaning. An agent that is newer than this package may send
// others.
const (
	// Reaching the guest: the words of package transport.
	ReasonNoVsock             = "no-vsock"
	ReasonNoSuchCID           = "no-such-cid"
	ReasonGuestBooting        = "guest-booting"
	ReasonNotListening        = "not-listening"
	ReasonNoVMM               = "no-vmm"
	ReasonVMMClosed           = "vmm-closed"
	ReasonBadHandshake        = "bad-handshake"
	ReasonPermissionDenied    = "permission-denied"
	ReasonAddressInUse        = "address-in-use"
	ReasonAddressNotAvailable = "address-not-available"
	ReasonBadAddress          = "bad-address"
	ReasonCanceled            = "canceled"
	ReasonTimeout             = "timeout"
	ReasonTransportError      = "transport-error"

	// Talking to the agent.
	ReasonBadTarget     = "bad-target"      // the target is no address and no known name
	ReasonNotAnAgent    = "not-an-agent"    // something answers there, but not a guest-agent
	ReasonWrongProtocol = "wrong-protocol"  // what answers there speaks another protocol
	ReasonAgentTooOld   = "agent-too-old"   // the agent lacks a method
	ReasonWrongGuestKey = "wrong-guest-key" // the guest is not the one that was meant
	ReasonOtherGuest    = "other-guest"     // after a lost connection another guest answers
	ReasonNoTLS         = "no-tls"          // keys were to be shown, and the guest speaks no TLS
	ReasonNoAnswer      = "no-answer"       // the guest did not answer while it was dialed
	ReasonUnreachable   = "unreachable"     // the connection was lost and did not come back in time
	ReasonSessionLost   = "session-lost"    // the agent was restarted, or has forgotten the session
	ReasonOutputLost    = "output-lost"     // output is gone that was not to be dropped
	ReasonProtocol      = "protocol"        // the guest broke the protocol
	ReasonLeft          = "left"            // Process.Detach or Process.HangUp was called
	ReasonClosed        = "closed"          // Guest.Close was called

	// Who may call.
	ReasonRefused        = "refused"
	ReasonMisconfigured  = "misconfigured"
	ReasonDenied         = "denied"
	ReasonOtherFace      = "other-face"
	ReasonRequestTooLong = "request-too-long"
	ReasonBudget         = "budget"
	ReasonBadKey         = "bad-key"
	ReasonUnknownKey     = "unknown-key"
	ReasonRevokedKey     = "revoked-key"
	ReasonUnknownRole    = "unknown-role"
	ReasonKeyNameTaken   = "key-name-taken"
	ReasonTooManyCalls   = "too-many-calls"
	ReasonTooManyStreams = "too-many-streams"
	ReasonAgentStopping  = "agent-stopping"
	ReasonAgentRestarted = "agent-restarted"

	// The guest's clock.
	ReasonBadTime       = "bad-time"
	ReasonEmbeddedAgent = "embedded-agent"

	// Processes and sessions.
	ReasonNotFound            = "not-found"
	ReasonNotExecutable       = "not-executable"
	ReasonWrongArchitecture   = "wrong-architecture"
	ReasonNoInterpreter       = "no-interpreter"
	ReasonBadFormat           = "bad-format"
	ReasonBadDirectory        = "bad-directory"
	ReasonNoSuchUser          = "no-such-user"
	ReasonNoSuchGroup         = "no-such-group"
	ReasonNotPermitted        = "not-permitted"
	ReasonNULByte             = "nul-byte"
	ReasonArgumentsTooLong    = "arguments-too-long"
	ReasonBadSpec             = "bad-spec"
	ReasonNoSession           = "no-session"
	ReasonSessionGone         = "session-gone"
	ReasonSessionRunning      = "session-running"
	ReasonNameTaken           = "name-taken"
	ReasonTooManySessions     = "too-many-sessions"
	ReasonOwnerPresent        = "owner-present"
	ReasonForeignSession      = "foreign-session"
	ReasonNotOwner            = "not-owner"
	ReasonTakenOver           = "taken-over"
	ReasonOffsetAhead         = "offset-ahead"
	ReasonStdinGap            = "stdin-gap"
	ReasonStdinWindowExceeded = "stdin-window-exceeded"
	ReasonNoStdin             = "no-stdin"
	ReasonNoTerminal          = "no-terminal"
	ReasonNoProcess           = "no-process"
	ReasonBadSignal           = "bad-signal"
	ReasonStartTimeout        = "start-timeout"
	ReasonNoNullDevice        = "no-null-device"
	ReasonCgroupUnavailable   = "cgroup-unavailable"
	ReasonLauncherUnavailable = "launcher-unavailable"
	ReasonProcessesExhausted  = "processes-exhausted"
	ReasonFilesExhausted      = "files-exhausted"
	ReasonMemoryExhausted     = "memory-exhausted"
	ReasonFailed              = "failed"

	// Connections of the guest.
	ReasonConnectionRefused  = "connection-refused"
	ReasonConnectionReset    = "connection-reset"
	ReasonNoSuchHost         = "no-such-host"
	ReasonNoRoute            = "no-route"
	ReasonTimedOut           = "timed-out"
	ReasonBadNetwork         = "bad-network"
	ReasonNoConnection       = "no-connection"
	ReasonTooManyConnections = "too-many-connections"

	// Files and copies.
	ReasonExists           = "exists"
	ReasonNotADirectory    = "not-a-directory"
	ReasonIsADirectory     = "is-a-directory"
	ReasonNotEmpty         = "not-empty"
	ReasonLinkLoop         = "link-loop"
	ReasonNameTooLong      = "name-too-long"
	ReasonBusy             = "busy"
	ReasonReadOnly         = "read-only"
	ReasonDiskFull         = "disk-full"
	ReasonFileTooLarge     = "file-too-large"
	ReasonInputOutput      = "input-output"
	ReasonSpecialFile      = "special-file"
	ReasonUnsupported      = "unsupported"
	ReasonBadName          = "bad-name"
	ReasonIntoItself       = "into-itself" // a directory was to be copied into itself
	ReasonBadArchive       = "bad-archive"
	ReasonLinkOutside      = "link-outside"
	ReasonNameCollision    = "name-collision"
	ReasonFileChanged      = "file-changed"
	ReasonHashMismatch     = "hash-mismatch"
	ReasonTooManyEntries   = "too-many-entries"
	ReasonTooManyBytes     = "too-many-bytes"
	ReasonTooDeep          = "too-deep"
	ReasonFileHangs        = "file-hangs"
	ReasonTransferCut      = "transfer-cut"
	ReasonWatchesExhausted = "watches-exhausted"
)
