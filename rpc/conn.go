package rpc

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is what both sides of a native connection have in common: the table of
// streams, the credit, and one mutex for both.
//
// Locks are taken in the order conn.mu, then writer.mu or Client.mu.
type conn struct {
	nc      net.Conn
	raw     *rawConn // nil: nc is read and written as it is
	w       writer
	rd      *reader   // of the goroutine that reads
	greeted bool      // what the peer sends first has come; of the same
	wakes   []*stream // to be woken at the end of the batch; of the same
	role    role

	received   atomic.Uint64 // reads that brought something
	inFlight   atomic.Int32  // calls
	batchCalls int32         // calls in flight when the last batch came; of who reads
	streamWin  int           // window of each stream for what is received
	share      share         // of a server's budget

	leading

	mu         sync.Mutex
	streams    map[uint32]*stream
	lastID     uint32 // the highest id of a stream that was opened
	send       sendWindow
	recv       recvWindow
	assembly   assembly
	creditWait []*stream // wait for send
	roomWait   []*stream // wait until less is pending
	peer       hello
	peerKnown  bool  // the peer's HELLO has come
	err        error // why the connection has ended
	draining   bool  // no new streams
	waiters    int   // that sleep while somebody else reads
	flood      floodGate

	closed chan struct{} // closed with the connection
}

// role is what the two sides do differently.
type role interface {
	// frame handles OPEN, HEADER, END and GOAWAY. own is as of reader.next; the
	// callee takes it.
	frame(h header, p []byte, own *[]byte) error
	// hello is called with mu held when the peer's HELLO has come.
	hello(hello)
	// reset is called with mu held when the peer has reset s.
	reset(s *stream, code wireCode, text string)
	// lost is called with mu held when the connection of s has ended.
	lost(s *stream, err error)
	// failed is called, without mu, once the connection has ended.
	failed(err error)
	// readLoop reads until a leader can.
	readLoop()
	// lead reads once for a leader. It reports whether that may go on so.
	lead() bool
	// roomLeft is called with mu held when less is pending to be written.
	roomLeft()
}

func (c *conn) init(nc net.Conn, streamWin, connWin int) {
	c.nc, c.raw = nc, newRawConn(nc)
	c.canLead = interruptible(nc)
	c.w.c = c
	c.w.parkingFn = c.w.parking
	c.rd = &reader{nc: nc, raw: c.raw}
	c.streamWin = streamWin
	c.recv = newRecvWindow(connWin)
	c.assembly.limit = int64(connWin)
	c.send.avail = initialConnWindow
	c.peer = hello{streamWindow: initialStreamWindow, connWindow: initialConnWindow}
	c.closed = make(chan struct{})
}

// readBatch reads once and handles the frames that are complete.
func (c *conn) readBatch(spin time.Duration) error {
	rd := c.rd
	if err := rd.fill(spin); err != nil {
		if isTimeout(err) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.err == nil {
				_ = c.nc.SetReadDeadline(time.Time{})
			}
			return c.err
		}
		return err
	}
	c.received.Add(1)
	c.batchCalls = c.inFlight.Load()
	return c.process()
}

// process handles the frames that are complete.
func (c *conn) process() error {
	rd := c.rd
	if !c.greeted {
		if ok, err := c.greet(rd); err != nil || !ok {
			return err
		}
		c.greeted = true
	}
	for {
		h, p, own, ok, err := rd.next()
		if err == nil && ok {
			err = c.handle(h, p, own)
		}
		if err == nil && ok {
			continue
		}
		if !errors.Is(err, errTurnOver) { // else these are another goroutine's
			c.wakeNow()
		}
		return err
	}
}

// greet handles what the peer sends first. It reports whether that was there.
func (c *conn) greet(rd *reader) (bool, error) {
	if rd.buf == nil {
		return false, nil
	}
	b := (*rd.buf)[rd.r:rd.w]
	k := min(len(b), len(magic))
	if string(b[:k]) != magic[:k] {
		return false, &notNative{explainPeer(b)}
	}
	if len(b) < len(magic)+headerLen {
		return false, nil
	}
	h := parseHeader(b[len(magic):])
	if h.typ != frameHello {
		return false, connErrorf(codeProtocol, "%v instead of HELLO", h.typ)
	}
	if err := h.check(); err != nil {
		return false, err
	}
	n := len(magic) + headerLen + int(h.length)
	if len(b) < n {
		return false, nil
	}
	said, err := parseHello(b[len(magic)+headerLen : n])
	if err != nil {
		return false, err
	}
	rd.r += n
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send.avail += int64(said.connWindow - initialConnWindow)
	more := uint32(said.streamWindow - initialStreamWindow)
	for _, s := range c.streams {
		s.send.add(more)
		c.wake(&s.sw, false)
	}
	c.peer, c.peerKnown = said, true
	c.role.hello(said)
	return true, nil
}

// notNative is the error of a peer that speaks something else.
type notNative struct{ text string }

func (e *notNative) Error() string { return e.text }

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// handle handles one frame. It takes own.
func (c *conn) handle(h header, p []byte, own *[]byte) error {
	switch h.typ {
	case frameData:
		return c.handleData(h, p, own)
	case frameOpen, frameHeader, frameEnd, frameGoAway:
		return c.role.frame(h, p, own)
	}
	defer buffers.Put(own)
	switch h.typ {
	case frameCredit:
		return c.handleCredit(h.stream, binary.BigEndian.Uint32(p))
	case frameReset:
		return c.handleReset(h.stream, wireCode(binary.BigEndian.Uint32(p)), string(p[4:]))
	case framePing:
		return c.handlePing(h, p)
	case frameHello:
		return connErrorf(codeProtocol, "a second HELLO")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idleFrame("of a type to ignore")
}

func (c *conn) handlePing(h header, p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.flags&flagAck != 0 {
		if c.flood.pings > 0 {
			c.flood.pings--
			return nil
		}
		return c.idleFrame("an answer to no PING")
	}
	var data [8]byte
	copy(data[:], p)
	if !c.w.appendControl(func(b []byte) []byte { return appendPing(b, flagAck, data) }) {
		return connErrorf(codeFlood, "PINGs are sent and their answers not read")
	}
	return c.idleFrame("a PING")
}

func (c *conn) handleCredit(id, n uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 {
		return connErrorf(codeFlowControl, "CREDIT of 0 bytes")
	}
	if n < leastCredit {
		if err := c.idleFrame("CREDIT of little"); err != nil {
			return err
		}
	}
	if id == 0 {
		if !c.send.add(n) {
			return connErrorf(codeFlowControl, "CREDIT beyond %d bytes", maxWindow)
		}
		for _, s := range c.creditWait {
			s.waits = false
			c.wake(&s.sw, false)
		}
		clear(c.creditWait)
		c.creditWait = c.creditWait[:0]
		return nil
	}
	s := c.streams[id]
	if s == nil {
		return c.lateFrame(id, frameCredit, frameCost)
	}
	if !s.send.add(n) {
		return connErrorf(codeFlowControl, "CREDIT beyond %d bytes on stream %d", maxWindow, id)
	}
	s.credited = true
	c.wake(&s.sw, false)
	return nil
}

func (c *conn) handleReset(id uint32, code wireCode, text string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		return c.lateFrame(id, frameReset, frameCost)
	}
	if s.peerReset {
		return c.idleFrame("a second RESET of a stream")
	}
	s.peerReset = true
	c.role.reset(s, code, text)
	return nil
}

func (c *conn) handleData(h header, p []byte, own *[]byte) error {
	head, msg, err := splitHead(h, p)
	if err != nil {
		buffers.Put(own)
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[h.stream]
	if s != nil && !s.discards {
		return s.receive(h, head, msg, own)
	}
	defer buffers.Put(own)
	if s == nil {
		err = c.lateFrame(h.stream, frameData, cost(len(msg)))
	} else {
		err = s.throwAway(h, len(msg))
	}
	if err != nil || h.flags&flagMsg == 0 {
		return err
	}
	if !c.recv.receive(len(msg)) {
		return connErrorf(codeFlowControl, "DATA of %d bytes beyond the connection's credit", len(msg))
	}
	c.credit(cost(len(msg)))
	return nil
}

func cost(n int) int64 { return int64(n) + frameCost }

// credit gives the connection's credit for n bytes back. mu is held. It reports
// whether it has appended a frame, which the next flush writes.
func (c *conn) credit(n int64) bool {
	return c.appendCredit(0, c.recv.consume(n))
}

func (c *conn) appendCredit(stream, n uint32) bool {
	if n > 0 {
		c.w.appendControl(func(b []byte) []byte { return appendCredit(b, stream, n) })
	}
	return n > 0
}

// refsDone lets the senders of payloads go on.
func (c *conn) refsDone(pieces []piece) {
	locked := false
	for _, p := range pieces {
		if p.ref == nil {
			continue
		}
		if !locked {
			c.mu.Lock()
			locked = true
		}
		p.ref.done = true
		if s := p.ref.s; s != nil {
			c.wake(&s.sw, true)
		}
	}
	if locked {
		c.mu.Unlock()
	}
}

// roomLeft wakes senders that are blocked because too much is pending.
func (c *conn) roomLeft() {
	c.mu.Lock()
	c.wakeRoomWait()
	c.role.roomLeft()
	c.mu.Unlock()
}

// wakeRoomWait makes senders that are blocked because too much is pending look again.
// mu is held.
func (c *conn) wakeRoomWait() {
	for _, s := range c.roomWait {
		s.listed--
		c.wake(&s.sw, true)
	}
	clear(c.roomWait)
	c.roomWait = c.roomWait[:0]
}

// fail ends the connection and all its streams. Only the first call counts. If the
// peer broke a rule it is told which.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	var ce *connError
	var bye []byte
	if errors.As(err, &ce) {
		bye = appendGoAway(nil, c.lastID, ce.code, ce.text)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the peer closed the connection")
	}
	c.err = err
	c.draining = true
	for id, s := range c.streams {
		delete(c.streams, id)
		s.lost(err)
	}
	c.wakeRoomWait() // streams that are not open yet are in no table
	close(c.closed)
	if !c.reading {
		c.rd.close()
	}
	c.mu.Unlock()
	c.w.close(err, bye)
	c.role.failed(err)
}

// assembly bounds what a connection holds of messages that are longer than the
// window of their stream allows at once: they are put together one after another.
type assembly struct {
	used, limit int64
	queue       []*stream
}

// reserve reports whether s may put together a message of n bytes now. If not it
// is in the queue, and woken when it is its turn.
func (a *assembly) reserve(s *stream, n int64) bool {
	if !s.queued && len(a.queue) > 0 || a.used > 0 && a.used+n > a.limit || s.queued && a.queue[0] != s {
		if !s.queued {
			s.queued = true
			a.queue = append(a.queue, s)
		}
		return false
	}
	a.leave(s)
	a.used += n
	s.reserved = n
	return true
}

// leave takes s out of the queue.
func (a *assembly) leave(s *stream) {
	if !s.queued {
		return
	}
	s.queued = false
	for i, q := range a.queue {
		if q == s {
			a.queue = append(a.queue[:i], a.queue[i+1:]...)
			return
		}
	}
}

// release ends what reserve began and returns who is next.
func (a *assembly) release(s *stream) *stream {
	a.leave(s)
	a.used -= s.reserved
	s.reserved = 0
	if len(a.queue) > 0 {
		return a.queue[0]
	}
	return nil
}
