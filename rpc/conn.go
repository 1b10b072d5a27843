package rpc

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// conn is what both sides of a native connection have in common: the table of
// streams, the credit, and one mutex for both.
//
// Locks are taken in the order conn.mu, then that of its writer or Client.mu.
type conn struct {
	nc      net.Conn
	w       *sock.Writer
	rd      *sock.Reader // of the goroutine that reads
	greeted bool         // what the peer sends first has come; of the same
	wakes   []*stream    // to be woken at the end of the batch; of the same
	role    role

	received   atomic.Uint64 // reads that brought something
	inFlight   atomic.Int32  // calls
	batchCalls int32         // calls in flight when the last batch came; owned by the goroutine that reads
	streamWin  int           // window of each stream for what is received
	share      share         // of a server's budget

	readRole

	mu         sync.Mutex
	streams    map[uint32]*stream
	lastID     uint32 // the highest id of a stream that was opened
	send       wire.SendWindow
	recv       wire.RecvWindow
	assembly   assembly
	creditWait []*stream // wait for send
	roomWait   []*stream // wait until less is pending
	peer       wire.Hello
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
	frame(h wire.Header, p []byte, own *[]byte) error
	// hello is called with mu held when the peer's HELLO has come.
	hello(wire.Hello)
	// reset is called with mu held when the peer has reset s.
	reset(s *stream, code wire.Code, text string)
	// lost is called with mu held when the connection of s has ended.
	lost(s *stream, err error)
	// ending is called with mu held when the connection ends, before its streams do.
	ending(err error)
	// failed is called, without mu, once the connection has ended.
	failed(err error)
	// readLoop reads until the connection ends, or callers can read inline again.
	readLoop()
	// readOnce reads once for a call that waits. It reports whether the call may read
	// again.
	readOnce() bool
	// hasRoom is called with mu held when less is pending to be written.
	hasRoom()
}

func (c *conn) init(nc net.Conn, streamWin, connWin int) {
	socket := sock.Of(nc)
	c.nc = nc
	c.interruptible = sock.Interruptible(nc)
	c.w = sock.NewWriter(nc, socket, (*owner)(c))
	c.rd = sock.NewReader(nc, socket)
	c.streamWin = streamWin
	c.recv = wire.NewRecvWindow(connWin)
	c.assembly.limit = int64(connWin)
	c.send.Avail = wire.InitialConnWindow
	c.peer = wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow}
	c.closed = make(chan struct{})
}

// readBatch reads once and handles the frames that are complete.
func (c *conn) readBatch(spin time.Duration) error {
	rd := c.rd
	if err := rd.Fill(spin); err != nil {
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
		h, p, own, ok, err := rd.Next()
		if err == nil && ok {
			err = c.handle(h, p, own)
		}
		if err == nil && ok {
			continue
		}
		if !errors.Is(err, errReaderMoved) { // else these are another goroutine's
			c.wakeNow()
		}
		return err
	}
}

// greet handles what the peer sends first. It reports whether that was there.
func (c *conn) greet(rd *sock.Reader) (bool, error) {
	b := rd.Buffered()
	k := min(len(b), len(wire.Magic))
	if string(b[:k]) != wire.Magic[:k] {
		return false, &notNative{explainPeer(b)}
	}
	if len(b) < len(wire.Magic)+wire.HeaderLen {
		return false, nil
	}
	h := wire.ParseHeader(b[len(wire.Magic):])
	if h.Type != wire.FrameHello {
		return false, wire.Errorf(wire.CodeProtocol, "%v instead of HELLO", h.Type)
	}
	if err := h.Check(); err != nil {
		return false, err
	}
	n := len(wire.Magic) + wire.HeaderLen + int(h.Length)
	if len(b) < n {
		return false, nil
	}
	said, err := wire.ParseHello(b[len(wire.Magic)+wire.HeaderLen : n])
	if err != nil {
		return false, err
	}
	rd.Discard(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send.Avail += int64(said.ConnWindow - wire.InitialConnWindow)
	more := uint32(said.StreamWindow - wire.InitialStreamWindow)
	for _, s := range c.streams {
		s.send.Add(more)
		c.wake(&s.sw, false)
	}
	c.peer, c.peerKnown = said, true
	c.role.hello(said)
	return true, nil
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// handle handles one frame. It takes own.
func (c *conn) handle(h wire.Header, p []byte, own *[]byte) error {
	switch h.Type {
	case wire.FrameData:
		return c.handleData(h, p, own)
	case wire.FrameOpen, wire.FrameHeader, wire.FrameEnd, wire.FrameGoAway:
		return c.role.frame(h, p, own)
	}
	defer buf.Pool.Put(own)
	switch h.Type {
	case wire.FrameCredit:
		return c.handleCredit(h.Stream, binary.BigEndian.Uint32(p))
	case wire.FrameReset:
		return c.handleReset(h.Stream, wire.Code(binary.BigEndian.Uint32(p)), string(p[4:]))
	case wire.FramePing:
		return c.handlePing(h, p)
	case wire.FrameHello:
		return wire.Errorf(wire.CodeProtocol, "a second HELLO")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.idleFrame("of a type to ignore")
}

func (c *conn) handlePing(h wire.Header, p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.Flags&wire.FlagAck != 0 {
		if c.flood.pings > 0 {
			c.flood.pings--
			return nil
		}
		return c.idleFrame("an answer to no PING")
	}
	var data [8]byte
	copy(data[:], p)
	if !c.w.AppendControl(func(b []byte) []byte { return wire.AppendPing(b, wire.FlagAck, data) }) {
		return wire.Errorf(wire.CodeFlood, "PINGs are sent and their answers not read")
	}
	return c.idleFrame("a PING")
}

func (c *conn) handleCredit(id, n uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 {
		return wire.Errorf(wire.CodeFlowControl, "CREDIT of 0 bytes")
	}
	if n < wire.LeastCredit {
		if err := c.idleFrame("CREDIT of little"); err != nil {
			return err
		}
	}
	if id == 0 {
		if !c.send.Add(n) {
			return wire.Errorf(wire.CodeFlowControl, "CREDIT beyond %d bytes", wire.MaxWindow)
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
		return c.lateFrame(id, wire.FrameCredit, wire.FrameCost)
	}
	if !s.send.Add(n) {
		return wire.Errorf(wire.CodeFlowControl, "CREDIT beyond %d bytes on stream %d", wire.MaxWindow, id)
	}
	s.credited = true
	c.wake(&s.sw, false)
	return nil
}

func (c *conn) handleReset(id uint32, code wire.Code, text string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		return c.lateFrame(id, wire.FrameReset, wire.FrameCost)
	}
	if s.peerReset {
		return c.idleFrame("a second RESET of a stream")
	}
	s.peerReset = true
	c.role.reset(s, code, text)
	return nil
}

func (c *conn) handleData(h wire.Header, p []byte, own *[]byte) error {
	head, msg, err := wire.SplitHead(h, p)
	if err != nil {
		buf.Pool.Put(own)
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[h.Stream]
	if s != nil && !s.discards {
		return s.receive(h, head, msg, own)
	}
	defer buf.Pool.Put(own)
	if s == nil {
		err = c.lateFrame(h.Stream, wire.FrameData, wire.Cost(len(msg)))
	} else {
		err = s.throwAway(h, len(msg))
	}
	if err != nil || h.Flags&wire.FlagMsg == 0 {
		return err
	}
	if !c.recv.Receive(len(msg)) {
		return wire.Errorf(wire.CodeFlowControl, "DATA of %d bytes beyond the connection's credit", len(msg))
	}
	c.credit(wire.Cost(len(msg)))
	return nil
}

// credit gives the connection's credit for n bytes back. mu is held. It reports
// whether it has appended a frame, which the next flush writes.
func (c *conn) credit(n int64) bool {
	return c.appendCredit(0, c.recv.Consume(n))
}

func (c *conn) appendCredit(stream, n uint32) bool {
	if n > 0 {
		c.w.AppendControl(func(b []byte) []byte { return wire.AppendCredit(b, stream, n) })
	}
	return n > 0
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
	var ce *wire.Error
	var bye []byte
	if errors.As(err, &ce) {
		bye = wire.AppendGoAway(nil, c.lastID, ce.Code, ce.Text)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the peer closed the connection")
	}
	c.err = err
	c.draining = true
	c.role.ending(err)
	for id, s := range c.streams {
		delete(c.streams, id)
		s.lost(err)
	}
	c.wakeRoomWait() // streams that are not open yet are in no table
	close(c.closed)
	if !c.reading {
		c.rd.Close()
	}
	c.mu.Unlock()
	c.w.Close(err, bye)
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
