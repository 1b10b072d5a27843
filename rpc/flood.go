package rpc

import (
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

const (
	// maxIdleFrames is how many frames that bring nothing forward may come within
	// floodTime.
	maxIdleFrames = 10_000
	floodTime     = 10 * time.Second
	// lateFrames is how many frames without a message may be under way to a stream
	// when it ends: CREDIT, RESET, HEADER, END.
	lateFrames = 4
)

// A floodGate counts frames that bring nothing forward. It is guarded by conn.mu.
type floodGate struct {
	idle  int       // since begun
	begun time.Time // when the first of them came
	late  int64     // cost of the frames that may still be under way to streams that are over
	pings int       // sent and not answered
}

// pass counts an idle frame. It reports false if too many have come in a short time.
func (g *floodGate) pass() bool {
	if g.idle == 0 {
		g.begun = time.Now()
	}
	if g.idle++; g.idle <= maxIdleFrames {
		return true
	}
	if time.Since(g.begun) < floodTime {
		return false
	}
	g.idle = 0
	return g.pass()
}

// passLate counts a frame of that cost for a stream that is over. What was under way
// when the stream ended is no fault of the peer's.
func (g *floodGate) passLate(cost int64) bool {
	if g.late >= cost {
		g.late -= cost
		return true
	}
	return g.pass()
}

// idleFrame counts a frame that brings nothing forward. mu is held.
func (c *conn) idleFrame(what string) error {
	if !c.flood.pass() {
		return wire.Errorf(wire.CodeFlood, "more than %d frames without effect within %v, the last of them %s", maxIdleFrames, floodTime, what)
	}
	return nil
}

// lateFrame checks that a frame for a stream that is not in the table is for one that
// was there, and that no more of them come than can have been under way. mu is held.
func (c *conn) lateFrame(id uint32, t wire.FrameType, cost int64) error {
	if id > c.lastID {
		return wire.Errorf(wire.CodeProtocol, "%v for stream %d, which was never opened", t, id)
	}
	if !c.flood.passLate(cost) {
		return wire.Errorf(wire.CodeFlood, "more than %d frames within %v for streams that are over", maxIdleFrames, floodTime)
	}
	return nil
}

// streamOver is called when a stream that the peer may still send to is over. credit
// is what the peer had left for it. mu is held.
func (c *conn) streamOver(credit int64) {
	c.flood.late = min(c.flood.late+credit+lateFrames*wire.FrameCost, c.recv.Size)
}
