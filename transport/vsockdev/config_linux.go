package vsockdev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
)

// Defaults of [Config].
const (
	DefaultMaxConnections = 2048
	DefaultMaxPending     = 256
	DefaultConnBuffer     = 256 << 10
	DefaultBuffers        = 64 << 20
)

// minBuffer is the least that a connection may send ahead.
const minBuffer = 4 << 10

// Config configures a [Device]. A limit that is 0 is its default.
type Config struct {
	// CID is the guest's, 3 or more. It need not be free on this machine: the
	// guests of other devices may have the same.
	CID uint32

	// Dial makes the connections that the guest asks for, to ports that nobody
	// listens on with [Device.Listen]. It is called in a goroutine of its own,
	// and its context ends when the guest gives up. An error refuses the guest's
	// request. The device owns the connection; one with a socket of its own
	// (a SyscallConn method) costs no extra copy. Nil refuses all.
	Dial func(ctx context.Context, port uint32) (net.Conn, error)

	// MaxConnections bounds the connections of the guest at one time, in both
	// directions and at every stage. One that waits only for the guest to read
	// what was sent to it gives way to a new one; else the new one is refused.
	MaxConnections int

	// MaxPending bounds, for each direction, the connections that are not
	// accepted yet. More from the host wait, more from the guest are refused.
	MaxPending int

	// ConnBuffer is how many bytes the guest may send ahead on a connection
	// whose reader on the host does not read, beside what that reader's socket
	// holds.
	ConnBuffer int

	// Buffers bounds the same for all connections together. Each gets at least
	// Buffers/MaxConnections/2 when it is made, which must be 4 KiB or more, and
	// up to ConnBuffer as long as there is enough for the others.
	Buffers int

	// Keeper is a file of [Keeper.Connect], if the device is to go on with the VM
	// of a device process before it. The device takes it.
	Keeper *os.File

	// Logger gets what goes wrong. Nil discards it.
	Logger *slog.Logger
}

func (c *Config) setDefaults() error {
	for _, limit := range []struct {
		value    *int
		standard int
	}{
		{&c.MaxConnections, DefaultMaxConnections}, {&c.MaxPending, DefaultMaxPending},
		{&c.ConnBuffer, DefaultConnBuffer}, {&c.Buffers, DefaultBuffers},
	} {
		if *limit.value == 0 {
			*limit.value = limit.standard
		}
		if *limit.value < 0 {
			return errors.New("vsockdev: a limit is negative")
		}
	}
	if c.CID < 3 || c.CID == math.MaxUint32 {
		return fmt.Errorf("vsockdev: CID %d is not one for a guest (3 to %d)", c.CID, uint32(math.MaxUint32-1))
	}
	if c.ConnBuffer < minBuffer || c.ConnBuffer > 1<<30 || c.Buffers/c.MaxConnections/2 < minBuffer {
		return fmt.Errorf("vsockdev: buffers of %d bytes for %d connections are too small, or %d bytes for one are not between %d and 1 GiB",
			c.Buffers, c.MaxConnections, c.ConnBuffer, minBuffer)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// A budget shares the buffers among connections.
type budget struct {
	max, each, least int // connections; bytes a connection, at most and at least
	free             int // bytes
	used             int // connections
}

func newBudget(c *Config) budget {
	return budget{max: c.MaxConnections, each: c.ConnBuffer, least: min(c.Buffers/c.MaxConnections/2, c.ConnBuffer), free: c.Buffers}
}

// take returns the buffer of a new connection. It reports false if there are
// too many connections.
func (b *budget) take() (int, bool) {
	if b.used >= b.max {
		return 0, false
	}
	b.used++
	others := (b.max - b.used) * b.least
	n := max(b.least, min(b.each, b.free-others))
	b.free -= n
	return n, true
}

// give takes the buffer of a connection back that is gone.
func (b *budget) give(n int) {
	b.used--
	b.free += n
}
