//go:build linux

package process

import (
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

// Config sets a Server's limits. The zero value of every field is its default.
type Config struct {
	// Logger gets one record for each session's start and end. Default:
	// slog.Default().
	Logger *slog.Logger
	// AgentID names this run of the agent; it is the id that
	// AgentService.Info gives. Default: 16 random bytes in hex.
	AgentID string

	// MaxSessions bounds the sessions that run at a time. Default: 4096.
	MaxSessions int
	// MaxEnded bounds the sessions that have ended and whose result is kept;
	// the oldest is forgotten first. Default: 1024.
	MaxEnded int
	// MaxRingBytes caps the ring of one output stream. Default: 16 MiB.
	MaxRingBytes uint64
	// MaxRingsTotal bounds the memory of all rings together, but for 4 KiB
	// for each stream, which it always gets so that no session stops another,
	// and for what was in its pipe when its process exited, 256 KiB at most.
	// Stdin takes up to 256 KiB for each session whose process does not read.
	// Default: an eighth of the guest's memory, at least 16 and at most 256 MiB.
	MaxRingsTotal uint64
	// MaxArgBytes bounds arguments and environment together. The kernel's own
	// limit holds beside it. Default: 2 MiB.
	MaxArgBytes int

	// StartTimeout bounds the time that a program may take to start, where it is
	// up to users of the guest. Default: 30 s.
	StartTimeout time.Duration

	// Path is PATH in the base environment. Default: the usual six
	// directories, /usr/local first.
	Path string
	// Env is added to the base environment, each "NAME=value".
	Env []string

	// Cgroup makes a cgroup for each session, below the agent's own cgroup, where
	// the guest has cgroup v2 and lets the agent write it. If that has controllers,
	// the agent itself moves to a leaf of its own. Only the daemon sets it.
	Cgroup bool
	// Protect lowers the agent's OOM score, and raises its CPU weight if
	// Cgroup is set, so that user load cannot starve it. Sessions do not
	// inherit either. Only the daemon sets it.
	Protect bool
}

const (
	defaultPath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultMaxRing  = 16 << 20
	minRingsTotal   = 16 << 20
	maxRingsTotal   = 256 << 20
	defaultMaxRun   = 4096
	defaultMaxEnded = 1024
	defaultMaxArgs  = 2 << 20
	defaultStart    = 30 * time.Second
)

// withDefaults returns a copy of c in which every field is set.
func (c *Config) withDefaults() Config {
	var d Config
	if c != nil {
		d = *c
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.AgentID == "" {
		var id [16]byte
		rand.Read(id[:])
		d.AgentID = hex.EncodeToString(id[:])
	}
	if d.MaxSessions <= 0 {
		d.MaxSessions = defaultMaxRun
	}
	if d.MaxEnded <= 0 {
		d.MaxEnded = defaultMaxEnded
	}
	if d.MaxRingBytes == 0 {
		d.MaxRingBytes = defaultMaxRing
	}
	if d.MaxRingsTotal == 0 {
		d.MaxRingsTotal = minRingsTotal
		var info unix.Sysinfo_t
		if unix.Sysinfo(&info) == nil {
			eighth := uint64(info.Totalram) * uint64(info.Unit) / 8
			d.MaxRingsTotal = min(max(eighth, minRingsTotal), maxRingsTotal)
		}
	}
	if d.MaxArgBytes <= 0 {
		d.MaxArgBytes = defaultMaxArgs
	}
	if d.StartTimeout <= 0 {
		d.StartTimeout = defaultStart
	}
	if d.Path == "" {
		d.Path = defaultPath
	}
	return d
}
