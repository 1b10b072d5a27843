package vmmtest

import "time"

// Faults says how a VMM misbehaves. The zero value is a VMM that does not.
type Faults struct {
	// Handshake is how CONNECT is answered where a faultless VMM answers "OK".
	Handshake Handshake

	// HandshakeDelay passes before the answer. For HandshakeBytewise it passes
	// before each byte. For HandshakeGlued it is the longest wait for the
	// guest's first bytes; 0 means 5 s.
	HandshakeDelay time.Duration

	// HandshakeText is what HandshakeGarbage sends; "" means "HTTP/1.1 400 Bad
	// Request\r\n\r\n".
	HandshakeText string

	// NoAccept lets connections of the host wait in the socket's backlog.
	NoAccept bool

	// NoHalfClose treats half-closes as Firecracker does: one by the host ends
	// the whole connection at once, both ways, and one by the guest is not
	// shown to the host before the guest closes.
	NoHalfClose bool

	// ResetEvery resets all connections again and again, with this time
	// between. 0 means never.
	ResetEvery time.Duration

	// ToGuest and ToHost are the faults of each connection's two directions.
	ToGuest, ToHost Flow

	// Seed determines what is random, the sizes of slices and the jitter, for
	// each connection by the order in which connections were made.
	Seed uint64
}

// Handshake is a way to answer CONNECT.
type Handshake int

// The ways to answer CONNECT.
const (
	HandshakeOK       Handshake = iota // as it should be
	HandshakeGlued                     // OK together with the guest's first bytes, in one write
	HandshakeBytewise                  // OK in single bytes, one write each
	HandshakeSilent                    // no answer, ever
	HandshakeRefused                   // end of file instead of an answer
	HandshakeCut                       // end of file after half of the answer
	HandshakeReset                     // reset instead of an answer
	HandshakeGarbage                   // HandshakeText instead of OK, and then the connection stays open
)

// Flow is how bytes flow in one direction of a connection. The zero value is
// as fast as can be and without fault. Bytes are passed on in chunks of at most
// 64 KiB.
type Flow struct {
	// Latency passes before each chunk, more or less by up to Jitter. Since the
	// chunks wait one after the other, it also limits the throughput.
	Latency, Jitter time.Duration

	// Slice makes chunks small: each has a random size of 1 up to Slice bytes.
	// 0 means no limit.
	Slice int

	// Rate limits the bytes per second; 0 means no limit.
	Rate int64

	// Fault happens once to each connection, as soon as At bytes have passed
	// from its beginning, without waiting for another byte: with an At of 0 at
	// its beginning or, if it is open already, at once. The handshake does not
	// count. FlipBit happens to the byte at offset At, if that has not passed
	// yet.
	Fault Fault
	At    int64
}

// Fault is what happens to a connection when it has carried some bytes.
type Fault int

// The faults of a connection.
const (
	NoFault   Fault = iota
	ResetConn       // the connection is reset; what has passed can still be read
	CloseConn       // the connection is closed; both ends read EOF
	EndFlow         // the receiver reads EOF, the sender is not told; the other direction goes on
	Stall           // nothing more is read from the sender, until SetFaults removes this
	Drop            // everything more is read and thrown away, EOF too, until SetFaults removes this
	FlipBit         // bit At%8 of the byte at offset At is flipped
)

// chunkSize is the largest number of bytes that are passed on at a time.
const chunkSize = 64 << 10

// A mode is what a VMM is told to do: its faults and whether it is paused. It
// does not change; a new one closes changed.
type mode struct {
	Faults
	paused  bool
	changed chan struct{}
}

func newMode(f Faults, paused bool) *mode {
	return &mode{Faults: f, paused: paused, changed: make(chan struct{})}
}
