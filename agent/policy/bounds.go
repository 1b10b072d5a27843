package policy

import (
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
)

// Bounds on what a call may name. They hold before a rule looks at the call, so
// that a refused call costs no more than reading it.
const (
	MaxPath      = 4096    // bytes of a path: PATH_MAX
	maxPathBytes = 8 << 20 // of all paths of a call
	maxPaths     = 1<<16 + 1
	maxArgs      = 1 << 16
	maxText      = 1024 // bytes of a user, group, address, session name or method
)

// Check refuses a call that names more, or something longer, than any rule or service
// has use for. The error is a gRPC status with the reason request-too-long.
func (c *Call) Check() error {
	if f := c.check(); f != nil {
		return f
	}
	return nil
}

func (c *Call) check() *fault.Error {
	long := func(what string, n, limit int) *fault.Error {
		return fault.New(codes.InvalidArgument, "request-too-long", "%s of the request: %d, and %d is the most", what, n, limit).
			On(clip(c.Method), "", nil)
	}
	for _, t := range []struct{ what, text string }{
		{"bytes of the method", c.Method}, {"bytes of the user", c.User}, {"bytes of the group", c.Group},
		{"bytes of the network", c.Network}, {"bytes of the address", c.Address},
		{"bytes of the session's name", c.SessionName}, {"bytes of the session's id", c.SessionID},
	} {
		if len(t.text) > maxText {
			return long(t.what, len(t.text), maxText)
		}
	}
	if len(c.Dir) > MaxPath {
		return long("bytes of the working directory", len(c.Dir), MaxPath)
	}
	if n := max(len(c.Args), len(c.Env), len(c.Limits)); n > maxArgs {
		return long("words", n, maxArgs)
	}
	if n := len(c.Reads) + len(c.Writes); n > maxPaths {
		return long("paths", n, maxPaths)
	}
	total := 0
	for _, paths := range [][]string{c.Reads, c.Writes} {
		for _, p := range paths {
			if len(p) > MaxPath {
				return long("bytes of a path", len(p), MaxPath)
			}
			total += len(p)
		}
	}
	if c.tooLong || total > maxPathBytes {
		return long("bytes of all paths", max(total, maxPathBytes+1), maxPathBytes)
	}
	return nil
}

// Size returns about how much memory the call takes, in bytes.
func (c *Call) Size() int {
	n := 0
	for _, words := range [][]string{c.Args, c.Env, c.Reads, c.Writes} {
		for _, w := range words {
			n += len(w) + 16
		}
	}
	return n
}

// clip bounds text that is repeated to the caller.
func clip(s string) string {
	if len(s) > maxQuoted {
		return s[:maxQuoted] + "..."
	}
	return s
}
