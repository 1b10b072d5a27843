package vmmtest

import (
	"io"
	"time"
)

// A stream is the VMM's end of one side of a connection: *guestStream, or a
// *hostStream on a Unix socket. At most one goroutine reads and one writes;
// the other methods may be called at any time and more than once.
type stream interface {
	io.Reader
	io.Writer
	SetReadDeadline(time.Time) error

	CloseWrite() error // the other side reads what was written and then EOF
	CloseRead() error  // the other side's writes fail
	Close() error      // both, in an orderly way
	Reset()            // both, so that the other side sees a reset, if it can be

	// waitHangup waits, after the end of the data has been read, until the
	// other side has closed its end altogether, and then returns true. It
	// returns false when that cannot be known, or after Close or Reset.
	waitHangup() bool
}
