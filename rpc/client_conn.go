package rpc

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

const (
	// clientUnread is how long a connection that nobody reads stays so. A caller that
	// comes within that time reads its answer itself; then a goroutine waits for
	// what the server may have to say.
	clientUnread = 10 * time.Millisecond
	// lastStream is the highest stream id that is used.
	lastStream = 1<<32 - 1
)

// clientConn is a native connection of a client. Its reader is either a caller
// that waits for an answer, if there is one alone, or a goroutine.
type clientConn struct {
	conn
	client      *Client
	peerInfo    peer.Peer
	headerLimit atomic.Int32 // of the server's HELLO
	spins       bool
	soleReads   int // batches in a row with one call in flight; owned by the goroutine that reads
	statsCtx    context.Context

	// Guarded by mu.
	methods  map[string]*methodNumber
	slots    []*waiter // of calls that wait until fewer streams are open
	left     bool      // GOAWAY has come
	last     uint32    // in that GOAWAY
	proven   bool      // a call has ended with a status of the server's
	timers   []*time.Timer
	watched  bool      // watch was called
	deadline time.Time // for the server's HELLO

	failures int // attempts in a row before this one; guarded by Client.mu
}

// methodNumber is the number of a method on a connection.
type methodNumber struct {
	n     uint16
	known bool // the server has been told
}

func newClientConn(c *Client, nc net.Conn, p peer.Peer) *clientConn {
	cc := &clientConn{client: c, peerInfo: p}
	cc.init(nc, c.cfg.StreamWindow, c.cfg.ConnWindow)
	cc.role = cc
	cc.statsCtx = c.stats.connBegin(c.ctx, nc, true)
	cc.streams = make(map[uint32]*stream)
	cc.methods = make(map[string]*methodNumber)
	cc.spins = c.cfg.Spin > 0
	cc.unreadLimit = clientUnread
	cc.w.Greet(wire.AppendPreface(nil, wire.Hello{
		Info: wire.Info(c.cfg.Hello), StreamWindow: c.cfg.StreamWindow, ConnWindow: c.cfg.ConnWindow,
		MaxHeader: c.cfg.MaxHeaderBytes, Authority: c.cfg.Authority, UserAgent: c.cfg.UserAgent,
	}))
	return cc
}

// begin makes the connection work that has come of a. With calls waiting for it, the
// first of them writes the preface together with its own frame, and reads the answer.
func (cc *clientConn) begin(a *attempt, calls bool) {
	cc.mu.Lock()
	cc.deadline, cc.reclaimTimer = a.deadline, a.timer
	running := a.leave(cc)
	if calls && cc.interruptible {
		if cc.reclaimArmed = running; !running {
			cc.armReclaim()
		}
	} else {
		cc.reclaimTimer.Stop()
		cc.watch()
		cc.readInBackground()
	}
	if d := cc.client.cfg.IdleTimeout; d > 0 {
		cc.watchIdle(d)
	}
	cc.mu.Unlock()
	if !calls {
		cc.w.Flush()
	}
}

// tick is called by the timer of the attempt that cc has come of.
func (cc *clientConn) tick() {
	cc.mu.Lock()
	cc.watch()
	cc.mu.Unlock()
	cc.reclaimReading()
}

// watch starts to see to it that the server says something. mu is held.
func (cc *clientConn) watch() {
	if cc.watched || cc.err != nil {
		return
	}
	cc.watched = true
	if t := cc.startKeepalive(cc.client.cfg.Keepalive); t != nil {
		cc.timers = append(cc.timers, t)
	}
	if !cc.peerKnown {
		cc.timers = append(cc.timers, time.AfterFunc(time.Until(cc.deadline), cc.silent))
	}
}

// silent ends a connection whose peer has said nothing.
func (cc *clientConn) silent() {
	cc.mu.Lock()
	known := cc.peerKnown
	cc.mu.Unlock()
	if !known {
		cc.fail(fmt.Errorf("the peer accepted the connection but said nothing for %v: the guest may be paused or still booting, or the peer is no agent", cc.client.cfg.ConnectTimeout))
	}
}

// readOnce implements role.
func (cc *clientConn) readOnce() bool {
	var spin time.Duration
	if cc.spins && cc.soleReads > soleBatches && cc.inFlight.Load() <= 1 {
		spin = cc.client.cfg.Spin
	}
	err := cc.readBatch(spin)
	if cc.soleReads++; cc.batchCalls > 1 {
		cc.soleReads = 0
	}
	if err != nil {
		cc.fail(err)
		return false
	}
	cc.w.Flush()
	return true
}

// readLoop reads until callers can do so again.
func (cc *clientConn) readLoop() {
	for {
		if err := cc.readBatch(0); err != nil {
			cc.fail(err)
			cc.rd.Close()
			return
		}
		cc.w.Flush()
		if !cc.interruptible {
			continue
		}
		if cc.soleReads++; cc.batchCalls > 1 {
			cc.soleReads = 0
		}
		if cc.soleReads < soleBatches {
			continue
		}
		cc.mu.Lock()
		if cc.waiters == 0 {
			cc.reading = false
			cc.armReclaim()
			cc.mu.Unlock()
			return
		}
		cc.mu.Unlock()
	}
}

func (cc *clientConn) hasRoom() {}

func (cc *clientConn) hello(h wire.Hello) {
	cc.headerLimit.Store(int32(h.MaxHeader))
	cc.wakeSlots()
	cc.client.ready(cc, h)
}

// maxStreams returns how many streams may be open. mu is held.
func (cc *clientConn) maxStreams() int {
	if !cc.peerKnown || cc.peer.MaxStreams == 0 {
		return wire.InitialMaxStreams
	}
	return int(cc.peer.MaxStreams)
}

// wakeSlots wakes calls for which there is room now. mu is held.
func (cc *clientConn) wakeSlots() {
	room := cc.maxStreams() - len(cc.streams)
	if cc.draining {
		room = len(cc.slots)
	}
	for ; room > 0 && len(cc.slots) > 0; room-- {
		cc.wake(cc.slots[0], true)
		cc.slots = slices.Delete(cc.slots, 0, 1)
	}
}

// leaveSlots ends the wait of w for room, and lets another have what w may have
// been woken for. mu is held.
func (cc *clientConn) leaveSlots(w *waiter) {
	if i := slices.Index(cc.slots, w); i >= 0 {
		cc.slots = slices.Delete(cc.slots, i, i+1)
	}
	cc.wakeSlots()
}

// forget takes s out of the table. mu is held.
func (cc *clientConn) forget(s *stream) {
	if cc.streams[s.id] != s {
		return
	}
	delete(cc.streams, s.id)
	if s.remoteClosed {
		cc.streamOver(0)
	} else {
		cc.streamOver(s.recv.Credit)
	}
	cc.inFlight.Add(-1)
	if len(cc.slots) > 0 {
		cc.wakeSlots()
	}
	if cc.draining && len(cc.streams) == 0 {
		go cc.fail(errConnClosed)
	}
}

func (cc *clientConn) reset(s *stream, code wire.Code, text string) {
	cs := s.cl
	text = wire.ValidText(text)
	var err error
	switch {
	case code == wire.CodeRefused:
		err = &errNotRun{status.Error(codes.Unavailable, "rpc: the server refused the call: "+text)}
	case code == wire.CodeCancelled:
		err = status.Error(codes.Canceled, "rpc: the server cancelled the call")
	case code == wire.CodeDeadline:
		err = status.FromContextError(context.DeadlineExceeded).Err()
	default:
		err = status.Errorf(code.Status(), "rpc: the server reset the call: %v: %s", code, text)
	}
	cs.over(err)
}

func (cc *clientConn) lost(s *stream, err error) {
	if nn := asNotNative(cc.err); nn != nil {
		err = &errNotRun{nn.callError()}
	} else if cc.left && s.id > cc.last {
		err = &errNotRun{err}
	}
	cc.inFlight.Add(-1) // the table is empty already
	s.cl.over(err)
}

func (cc *clientConn) failed(err error) {
	cc.mu.Lock()
	for _, t := range cc.timers {
		t.Stop()
	}
	cc.disarm()
	for _, w := range cc.slots {
		cc.wake(w, true)
	}
	cc.slots = nil
	cc.mu.Unlock()
	cc.client.stats.connEnd(cc.statsCtx, true)
}

func (cc *clientConn) ending(err error) {
	cc.client.disconnected(cc, err, cc.peerKnown, cc.proven)
}

// watchIdle closes the connection when no call was made for d. mu is held.
func (cc *clientConn) watchIdle(d time.Duration) {
	var t *time.Timer
	last := cc.lastID
	t = time.AfterFunc(d, func() {
		cc.mu.Lock()
		idle := cc.lastID == last && len(cc.streams) == 0 && len(cc.slots) == 0
		last = cc.lastID
		if idle {
			cc.draining = true
		} else if cc.err == nil {
			t.Reset(d)
		}
		cc.mu.Unlock()
		if idle {
			cc.fail(errConnClosed)
		}
	})
	cc.timers = append(cc.timers, t)
}

func (cc *clientConn) frame(h wire.Header, p []byte, own *[]byte) error {
	if h.Type == wire.FrameGoAway {
		defer buf.Pool.Put(own)
		return cc.goAway(binary.BigEndian.Uint32(p), wire.Code(binary.BigEndian.Uint32(p[4:])), string(p[8:]))
	}
	if h.Type == wire.FrameOpen {
		buf.Pool.Put(own)
		return wire.Errorf(wire.CodeProtocol, "OPEN from a server")
	}
	head, msg, err := wire.SplitHead(h, p)
	var eh wire.End
	if err == nil && len(head) > 0 {
		eh, err = wire.ParseEnd(head)
	}
	if err != nil {
		buf.Pool.Put(own)
		return err
	}
	cc.mu.Lock()
	defer cc.mu.Unlock()
	s := cc.streams[h.Stream]
	if s == nil {
		defer buf.Pool.Put(own)
		if h.Flags&wire.FlagMsg != 0 && h.Stream <= cc.lastID {
			if !cc.recv.Receive(len(msg)) {
				return wire.Errorf(wire.CodeFlowControl, "END with %d bytes beyond the connection's credit", len(msg))
			}
			cc.credit(wire.Cost(len(msg)))
		}
		return cc.lateFrame(h.Stream, h.Type, wire.Cost(len(msg)))
	}
	cs := s.cl
	limit := cc.client.cfg.MaxHeaderBytes
	size := wire.MetadataSize(eh.Md) + wire.MetadataSize(eh.Trailer)
	if h.Type == wire.FrameHeader {
		buf.Pool.Put(own)
		if cs.headerKnown {
			return wire.Errorf(wire.CodeProtocol, "a second HEADER, or one after a message, on stream %d", h.Stream)
		}
		if size > limit {
			cs.abort(status.Errorf(codes.ResourceExhausted, "rpc: header of %d bytes, more than %d", size, limit))
			return nil
		}
		cs.setHeader(eh.Md)
		return nil
	}
	if size > limit {
		eh = wire.End{Code: codes.ResourceExhausted, Text: fmt.Sprintf("rpc: header and trailer of %d bytes, more than %d", size, limit)}
	}
	if s.inMsg {
		// The handler has ended while something else was sending.
		if h.Flags&wire.FlagMsg != 0 {
			buf.Pool.Put(own)
			return wire.Errorf(wire.CodeProtocol, "END of stream %d with a message within another", h.Stream)
		}
		if eh.Code == codes.OK {
			eh.Code, eh.Text = codes.Internal, "rpc: the server ended the call within a message"
		}
		s.dropTail()
	}
	cc.proven = true
	cs.setHeader(eh.Md)
	if h.Flags&wire.FlagMsg != 0 {
		if err := s.receive(wire.Header{Type: wire.FrameEnd, Flags: wire.FlagMsg, Stream: h.Stream}, nil, msg, own); err != nil {
			return err
		}
	} else {
		buf.Pool.Put(own)
	}
	cs.end(&eh)
	return nil
}

// goAway handles GOAWAY: streams above last were not and will not be run. With a code
// the server has ended the connection.
func (cc *clientConn) goAway(last uint32, code wire.Code, text string) error {
	cc.mu.Lock()
	if cc.left {
		err := cc.idleFrame("another GOAWAY")
		if err == nil && last > cc.last {
			err = wire.Errorf(wire.CodeProtocol, "GOAWAY with stream %d after one with stream %d", last, cc.last)
		}
		if err != nil {
			cc.mu.Unlock()
			return err
		}
	}
	cc.left, cc.last, cc.draining = true, last, true
	if code != wire.CodeNone {
		cc.mu.Unlock()
		return &goneError{code, wire.ValidText(text)}
	}
	err := status.Error(codes.Unavailable, "rpc: the server takes no more calls: "+wire.ValidText(text))
	for id, s := range cc.streams {
		if id > last {
			s.cl.over(&errNotRun{err})
		}
	}
	cc.wakeSlots()
	cc.wakeRoomWait()
	empty := len(cc.streams) == 0
	cc.mu.Unlock()
	cc.client.leave(cc)
	if empty {
		return io.EOF
	}
	return nil
}
