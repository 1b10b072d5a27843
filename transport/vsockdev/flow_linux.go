package vsockdev

// A flow is the protocol state of one connection, as one of its ends has it:
// phase, credit and shutdowns by VIRTIO 1.2, sections 5.10.6.3 to 5.10.6.6. It
// does no I/O. Its owner tells it what the other end sent and what became of
// the bytes, and asks it what to send.
//
// Counters of bytes wrap at 2^32, as on the wire.
type flow struct {
	phase phase

	// From the other end to this one.
	alloc    uint32 // buffer that the other end may fill
	received uint32 // bytes that came
	passed   uint32 // bytes of those that left the buffer
	told     uint32 // passed, as the other end was last told

	// From this end to the other.
	peerAlloc, peerPassed uint32 // the same two, of the other end
	sent                  uint32
	asked                 bool // for credit, since it last changed

	shut     uint32 // what this end will not do any more (shutRecv, shutSend)
	toldShut uint32 // shut, as the other end was told
	peerShut uint32 // what the other end said

	due uint8 // one bit for each operation that is to be sent
}

// A phase is where in its life a connection is.
type phase uint8

const (
	phaseRequested phase = iota // this end asked, the other has not answered
	phaseOffered                // the other end asked, this one has not answered
	phaseOpen
	phaseClosed // the other end knows nothing of the connection, or is about to be told so
)

// request starts a connection from this end.
func request(alloc uint32) flow {
	return flow{phase: phaseRequested, alloc: alloc, due: 1 << opRequest}
}

// offered starts a connection that the other end asked for by h.
func offered(alloc uint32, h *header) flow {
	return flow{phase: phaseOffered, alloc: alloc, peerAlloc: h.bufAlloc, peerPassed: h.fwdCnt}
}

// accept answers the other end's request.
func (f *flow) accept() {
	f.due |= 1 << opResponse
	f.open()
}

// open begins the phase in which bytes go.
func (f *flow) open() {
	f.phase = phaseOpen
	f.close(0) // what was said before
}

// reset closes the connection and tells the other end.
func (f *flow) reset() {
	f.phase = phaseClosed
	f.due = 1 << opReset
}

// receive takes a packet of the other end, and reports whether its h.len bytes
// go into the buffer. A packet that breaks the rules resets the connection.
func (f *flow) receive(h *header) (data bool) {
	if f.phase == phaseClosed {
		return false
	}
	if h.op == opReset {
		f.phase, f.due = phaseClosed, 0
		return false
	}
	if !f.takeCredit(h) || !f.allows(h) {
		f.reset()
		return false
	}
	switch h.op {
	case opResponse:
		f.open()
	case opShutdown:
		f.peerShut |= h.flags & shutBoth
		if f.peerShut == shutBoth {
			// It neither sends nor receives: there is nothing to wait for.
			f.reset()
		}
	case opCreditRequest:
		f.due |= 1 << opCreditUpdate
	case opRW:
		f.received += h.len
		return true
	}
	return false
}

// takeCredit notes what a packet says about the other end's buffer. It reports
// false if that end claims to have passed on more than it was sent.
func (f *flow) takeCredit(h *header) bool {
	if int32(f.sent-h.fwdCnt) < 0 {
		return false
	}
	if h.bufAlloc != f.peerAlloc || h.fwdCnt != f.peerPassed {
		f.asked = false
	}
	f.peerAlloc, f.peerPassed = h.bufAlloc, h.fwdCnt
	return true
}

// allows reports whether a packet may come now.
func (f *flow) allows(h *header) bool {
	switch h.op {
	case opResponse:
		return f.phase == phaseRequested
	case opRW:
		return f.phase == phaseOpen && f.peerShut&shutSend == 0 && h.len <= f.free()
	case opShutdown:
		return f.phase != phaseRequested
	case opCreditUpdate, opCreditRequest:
		return f.phase != phaseRequested
	}
	return false
}

// free is how much the other end may still send.
func (f *flow) free() uint32 { return f.alloc - (f.received - f.passed) }

// buffered is how much is in the buffer.
func (f *flow) buffered() uint32 { return f.received - f.passed }

// pass notes that n bytes left the buffer. The other end is told when half of
// the buffer has become free since it last heard.
func (f *flow) pass(n int) {
	f.passed += uint32(n)
	if f.phase == phaseOpen && f.peerShut&shutSend == 0 && f.passed-f.told >= f.alloc/2 {
		f.due |= 1 << opCreditUpdate
	}
}

// credit is how many bytes may be sent to the other end.
func (f *flow) credit() int {
	if f.phase != phaseOpen || f.shut&shutSend != 0 || f.peerShut&shutRecv != 0 {
		return 0
	}
	return max(0, int(f.peerAlloc)-int(f.sent-f.peerPassed))
}

// starve notes that there is something to send and no credit. The other end is
// asked once each time.
func (f *flow) starve() {
	if f.phase == phaseOpen && !f.asked && f.peerShut&shutRecv == 0 && f.credit() == 0 {
		f.asked = true
		f.due |= 1 << opCreditRequest
	}
}

// close notes what this end will not do any more: shutSend once all was sent,
// shutRecv when nobody reads, both when this end is gone. The connection ends by the
// other end's reset, which comes when that has read everything.
func (f *flow) close(flags uint32) {
	f.shut |= flags
	switch f.phase {
	case phaseRequested, phaseOffered:
		if f.shut == shutBoth {
			f.abandon()
		}
	case phaseOpen:
		if f.shut != f.toldShut {
			f.due |= 1 << opShutdown
		}
	}
}

// abandon ends a connection that is not open yet.
func (f *flow) abandon() {
	unsent := f.due&(1<<opRequest) != 0
	f.reset()
	if unsent {
		f.due = 0
	}
}

// pending reports whether there is a packet without bytes to send.
func (f *flow) pending() bool { return f.due != 0 }

// order is that in which packets are sent that are due at the same time.
var order = [...]uint16{opReset, opRequest, opResponse, opShutdown, opCreditUpdate, opCreditRequest}

// next takes the next packet without bytes that is to be sent and fills it into
// h. It reports false if there is none.
func (f *flow) next(h *header) bool {
	for _, op := range order {
		if f.due&(1<<op) == 0 {
			continue
		}
		f.due &^= 1 << op
		h.op, h.len, h.flags = op, 0, 0
		if op == opShutdown {
			h.flags = f.shut
			f.toldShut = f.shut
		}
		f.stamp(h)
		return true
	}
	return false
}

// data fills in the header of n bytes, at most credit.
func (f *flow) data(h *header, n int) {
	f.sent += uint32(n)
	h.op, h.len, h.flags = opRW, uint32(n), 0
	f.stamp(h)
}

// stamp says in h how much of the buffer is free.
func (f *flow) stamp(h *header) {
	h.bufAlloc, h.fwdCnt = f.alloc, f.passed
	f.told = f.passed
	f.due &^= 1 << opCreditUpdate
}
