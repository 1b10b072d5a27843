package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

const (
	// fullAnswers is how many calls are answered, of those that one read has
	// brought, before the client gets the answers: then it need not wait for all
	// of them.
	fullAnswers = 32
	// firstAnswers is how many it gets before the others are made: then both sides
	// work at the same time, rather than in turns. That is worth a write of its own
	// if at least manyMore times as much is left of the read.
	firstAnswers = 3
	manyMore     = 2

	maxMethods    = 1024 // numbers a client may give to methods
	maxMethodName = 1024 // bytes
	// lingerTime is how long the server waits for the client to close a connection
	// that has come to its end.
	lingerTime = time.Second
	// lendTime is how long a connection stays unread while the handler that reads
	// it is at work.
	lendTime = turnTick
)

var (
	errCanceled = context.Canceled
	// errTurnOver ends a loop of reading whose role another goroutine has.
	errTurnOver = errors.New("another goroutine reads")
)

// serverConn is a native connection of a server.
type serverConn struct {
	conn
	srv        *Server
	arrived    *arrival
	maxStreams int             // whose handlers run
	maxRecv    int             // bytes of one message
	base       context.Context // of all calls: peer, what stats handlers tag
	md         metadata.MD     // of calls that bring none
	turn       turn
	spins      bool
	// Of who reads: how many calls the last read brought, and how many reads in a
	// row have brought no more than one.
	batchOpens int
	lone       int
	fed        int       // reads in a row with one call alone, which had begun before
	ran        []*method // that had a turn since leaveThread looked
	looked     time.Time // when it did

	// Guarded by mu.
	methods []*method       // by number
	active  int             // calls given to handlers
	opened  uint64          // calls ever opened
	pending []*serverStream // calls that wait for others to end
	leaving bool            // GOAWAY was sent
	last    uint32          // in that GOAWAY
	timers  []*time.Timer
	lingers bool
	// The goroutine that reads waits until the client has read some more.
	readerWaits bool
	readerRoom  waiter

	handlers sync.WaitGroup // that run
}

func newServerConn(srv *Server, nc net.Conn, p *peer.Peer, a *arrival, name string) *serverConn {
	cfg := &srv.cfg
	sc := &serverConn{srv: srv, arrived: a, maxStreams: int(cfg.MaxConcurrentStreams), maxRecv: cfg.MaxRecvMsgSize}
	streamWin, connWin := cfg.StreamWindow, cfg.ConnWindow
	b := &srv.budget
	if a.stranger {
		sc.maxStreams, sc.maxRecv = min(sc.maxStreams, MaxStrangerStreams), min(sc.maxRecv, MaxStrangerRecvSize)
		streamWin, connWin = wire.InitialStreamWindow, min(connWin, MaxStrangerConnWindow)
		b = &srv.strangeBudget
	}
	sc.share.join(b, name)
	sc.init(nc, streamWin, connWin)
	sc.role = sc
	sc.patient, sc.reading = lendTime, true
	sc.streams = make(map[uint32]*stream)
	sc.base = srv.stats.connBegin(peer.NewContext(srv.ctx, p), nc, false)
	sc.spins = srv.cfg.Spin > 0
	sc.w.Greet(wire.AppendPreface(nil, wire.Hello{
		Info: wire.Info(cfg.Hello), StreamWindow: streamWin, ConnWindow: connWin,
		MaxStreams: uint32(sc.maxStreams), MaxHeader: cfg.MaxHeaderBytes,
	}))
	return sc
}

// serve reads the connection until it ends. begun holds what was read of it.
func (sc *serverConn) serve(begun []byte) {
	sc.rd.Feed(begun)
	sc.startTimers()
	sc.readLoop()
	<-sc.closed
}

// readLoop reads until the connection ends or another goroutine takes over.
func (sc *serverConn) readLoop() {
	rd := sc.rd
	// What was read before this goroutine took over comes first.
	if err := sc.process(); err != nil {
		sc.stopReading(rd, err)
		return
	}
	if sc.leaveThread() {
		rd.Close()
		return
	}
	if !sc.greeted {
		sc.after(sc.srv.cfg.HandshakeTimeout, func() {
			sc.mu.Lock()
			known := sc.peerKnown
			sc.mu.Unlock()
			if !known {
				sc.fail(wire.Errorf(wire.CodeTimeout, "no HELLO within %v", sc.srv.cfg.HandshakeTimeout))
			}
		})
	}
	for {
		sc.w.Flush()
		if !sc.waitForRoom() {
			rd.Close()
			return
		}
		var spin time.Duration
		if sc.lone++; sc.batchOpens > 1 {
			sc.lone = 0
		}
		if sc.spins && sc.lone > loneBatches && sc.inFlight.Load() == 0 {
			spin = sc.srv.cfg.Spin
		}
		sc.batchOpens = 0
		if err := sc.readBatch(spin); err != nil {
			sc.stopReading(rd, err)
			return
		}
		if sc.leaveThread() {
			rd.Close()
			return
		}
		if sc.lend() {
			return
		}
	}
}

// stopReading gives back the memory of who has read. The connection ends with err,
// unless that says that another goroutine reads on.
func (sc *serverConn) stopReading(rd *sock.Reader, err error) {
	if !errors.Is(err, errTurnOver) {
		sc.fail(err)
	}
	rd.Close()
}

// lend leaves the reading to the handler of the only call, if the last batches were
// for that alone. It reports whether it did.
func (sc *serverConn) lend() bool {
	if sc.fed++; sc.batchOpens > 0 || sc.inFlight.Load() != 1 {
		sc.fed = 0
	}
	if sc.fed < loneBatches || !sc.canLead {
		return false
	}
	sc.fed = 0
	sc.w.Flush()
	sc.mu.Lock()
	defer sc.mu.Unlock()
	for _, s := range sc.streams {
		sc.wake(&s.rw, false) // it may have waited again already
	}
	if sc.waiters > 0 || sc.err != nil {
		return false
	}
	sc.reading = false
	sc.armHandBack()
	return true
}

// lead reads once for the handler of the only call. With more calls, or a client
// that does not read its answers, it is the turn of a goroutine again.
func (sc *serverConn) lead() bool {
	full := sc.w.Full()
	if full {
		return false
	}
	if err := sc.readBatch(0); err != nil {
		sc.fail(err)
		return false
	}
	sc.w.Flush()
	return sc.inFlight.Load() == 1
}

// waitForRoom stops reading from a client that does not read its answers. It
// reports false if the connection has ended.
func (sc *serverConn) waitForRoom() bool {
	full := sc.w.AwaitRoom()
	if !full {
		return true
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.readerWaits = true
	for sc.readerWaits && sc.err == nil {
		full := sc.w.AwaitRoom()
		if !full {
			break
		}
		sc.sleep(&sc.readerRoom)
	}
	sc.readerWaits = false
	return sc.err == nil
}

func (sc *serverConn) hasRoom() {
	if sc.readerWaits {
		sc.readerWaits = false
		sc.wake(&sc.readerRoom, true)
	}
}

func (sc *serverConn) hello(h wire.Hello) {
	sc.md = metadata.MD{}
	if h.Authority != "" {
		sc.md[":authority"] = []string{h.Authority}
	}
	if h.UserAgent != "" {
		sc.md["user-agent"] = []string{h.UserAgent}
	}
}

// headerLimit returns how much metadata the client takes.
func (sc *serverConn) headerLimit() int {
	if n := sc.peer.MaxHeader; n > 0 {
		return min(n, maxMetadata)
	}
	return maxMetadata
}

func (sc *serverConn) reset(s *stream, code wire.Code, _ string) {
	ss := s.sv
	err := context.Canceled
	if code == wire.CodeDeadline {
		err = context.DeadlineExceeded
	}
	ss.over(status.FromContextError(err).Err(), false)
	ss.ctx.cancel(err)
}

func (sc *serverConn) lost(s *stream, err error) {
	s.stop(err, true)
	if ss := s.sv; !ss.started { // it waits for its handler, and gets none
		sc.share.free(ss.charged)
		ss.charged = 0
	}
	s.sv.ctx.cancel(context.Canceled)
}

func (sc *serverConn) ending(error) {}

func (sc *serverConn) failed(err error) {
	sc.mu.Lock()
	sc.hasRoom()
	sc.disarm()
	sc.pending = nil
	for _, t := range sc.timers {
		t.Stop()
	}
	sc.mu.Unlock()
	sc.srv.stats.connEnd(sc.base, false)
	sc.srv.connEnded(sc, err)
}

func (sc *serverConn) frame(h wire.Header, p []byte, own *[]byte) error {
	switch h.Type {
	case wire.FrameOpen:
		return sc.open(h, p, own)
	case wire.FrameGoAway:
		buf.Pool.Put(own)
		return sc.clientLeaves(wire.Code(binary.BigEndian.Uint32(p[4:])), string(p[8:]))
	}
	buf.Pool.Put(own)
	return wire.Errorf(wire.CodeProtocol, "%v from a client", h.Type)
}

// clientLeaves handles a GOAWAY. Without a code it says no more than that the client
// will close the connection.
func (sc *serverConn) clientLeaves(code wire.Code, text string) error {
	if code != wire.CodeNone {
		return &goneError{code, wire.ValidText(text)}
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.idleFrame("GOAWAY")
}

// open handles an OPEN. It takes own.
func (sc *serverConn) open(h wire.Header, p []byte, own *[]byte) error {
	head, msg, err := wire.SplitHead(h, p)
	var o wire.Open
	if err == nil && len(head) > 0 {
		o, err = wire.ParseOpen(head)
	}
	if err != nil {
		buf.Pool.Put(own)
		return err
	}
	sc.mu.Lock()
	if err := sc.err; err != nil {
		sc.mu.Unlock()
		buf.Pool.Put(own)
		return err
	}
	if h.Stream <= sc.lastID {
		sc.mu.Unlock()
		buf.Pool.Put(own)
		return wire.Errorf(wire.CodeProtocol, "OPEN of stream %d after stream %d", h.Stream, sc.lastID)
	}
	sc.lastID = h.Stream
	m, err := sc.method(h, &o)
	if err != nil {
		sc.mu.Unlock()
		buf.Pool.Put(own)
		return err
	}
	if sc.leaving && h.Stream > sc.last {
		sc.streamOver(int64(sc.streamWin))
		err := sc.skip(h, msg)
		sc.mu.Unlock()
		buf.Pool.Put(own)
		return err
	}
	sc.opened++
	sc.batchOpens++
	ss := sc.newStream(h.Stream, m, &o)
	if err := sc.admit(ss, &o); err != nil {
		ss.remoteClosed = h.Flags&wire.FlagClose != 0
		err2 := sc.skip(h, msg)
		sc.mu.Unlock()
		buf.Pool.Put(own)
		ss.finish(err, nil, sock.Later)
		return err2
	}
	waits := sc.active >= sc.maxStreams
	if waits && len(sc.pending) >= sc.maxStreams+wire.InitialMaxStreams {
		return sc.refuse(h, msg, own, "too many streams")
	}
	if !waits && m.unary != nil && h.Flags&(wire.FlagMsg|wire.FlagMore) == wire.FlagMsg && sc.leader == nil && !sc.srv.cfg.HandlersApart && m.pace.quick() {
		if err := sc.acceptNow(ss, h, msg, own); err != nil {
			sc.mu.Unlock()
			buf.Pool.Put(own)
			return err
		}
		sc.active++
		sc.handlers.Add(1)
		sc.mu.Unlock()
		sc.inFlight.Add(1)
		sc.wakeNow()
		sc.turn.begin(ss)
		if !ss.runUnary() {
			return errTurnOver
		}
		if sc.batchOpens%fullAnswers == 0 || sc.batchOpens == firstAnswers && sc.rd.Left() >= manyMore {
			sc.w.Flush() // let the client begin with what there is
		}
		return nil
	}
	if ss.charged = callCost + int64(len(head)); !sc.share.hold(ss.charged, 1) {
		ss.charged = 0
		return sc.refuse(h, msg, own, "the calls of this client hold too much of the server")
	}
	sc.streams[h.Stream] = &ss.stream
	if h.Flags&(wire.FlagMsg|wire.FlagClose) != 0 {
		if err := ss.receive(h, head, msg, own); err != nil {
			sc.mu.Unlock()
			return err
		}
	} else {
		buf.Pool.Put(own)
	}
	if waits {
		sc.pending = append(sc.pending, ss)
		if !ss.ctx.deadline.IsZero() {
			ss.ctx.Done() // starts the timer
		}
	} else {
		sc.start(ss)
	}
	sc.mu.Unlock()
	return nil
}

// refuse resets the stream of an OPEN that is not given to a handler. It takes own and
// unlocks mu.
func (sc *serverConn) refuse(h wire.Header, msg []byte, own *[]byte, why string) error {
	sc.streamOver(int64(sc.streamWin))
	err := sc.skip(h, msg)
	if !sc.w.AppendControl(func(b []byte) []byte { return wire.AppendReset(b, h.Stream, wire.CodeRefused, why) }) {
		err = wire.Errorf(wire.CodeFlood, "streams are opened beyond the limit, and the refusals not read")
	}
	sc.mu.Unlock()
	buf.Pool.Put(own)
	return err
}

// start runs the handler of ss on a goroutine. mu is held.
func (sc *serverConn) start(ss *serverStream) {
	ss.started = true
	sc.active++
	sc.inFlight.Add(1)
	sc.handlers.Add(1)
	go ss.run()
}

// acceptNow takes the whole message of a unary call. mu is held.
func (sc *serverConn) acceptNow(ss *serverStream, h wire.Header, msg []byte, own *[]byte) error {
	if _, err := ss.accept(h, nil, msg); err != nil {
		return err
	}
	sc.credit(wire.Cost(len(msg)))
	ss.started = true
	ss.remoteClosed = true
	ss.now, ss.hasNow = message{data: msg, own: own}, true
	return nil
}

// method returns the method of an OPEN. mu is held.
func (sc *serverConn) method(h wire.Header, o *wire.Open) (*method, error) {
	if len(o.Method) > maxMethodName {
		return nil, wire.Errorf(wire.CodeProtocol, "a method name of %d bytes", len(o.Method))
	}
	if h.Method > maxMethods {
		return nil, wire.Errorf(wire.CodeProtocol, "method number %d, more than %d", h.Method, maxMethods)
	}
	i := int(h.Method)
	if o.Method != "" {
		m := sc.srv.find(o.Method)
		if i > 0 {
			for len(sc.methods) <= i {
				sc.methods = append(sc.methods, nil)
			}
			sc.methods[i] = m
		}
		return m, nil
	}
	if i == 0 || i >= len(sc.methods) || sc.methods[i] == nil {
		return nil, wire.Errorf(wire.CodeProtocol, "OPEN with method number %d, which has no name yet", i)
	}
	return sc.methods[i], nil
}

// skip gives the credit for a message back that nobody gets. mu is held.
func (sc *serverConn) skip(h wire.Header, msg []byte) error {
	if h.Flags&wire.FlagMsg == 0 {
		return nil
	}
	if !sc.recv.Receive(len(msg)) {
		return wire.Errorf(wire.CodeFlowControl, "OPEN with %d bytes beyond the connection's credit", len(msg))
	}
	sc.credit(wire.Cost(len(msg)))
	return nil
}

// newStream makes the stream of an OPEN. mu is held.
func (sc *serverConn) newStream(id uint32, m *method, o *wire.Open) *serverStream {
	ss := serverStreams.Get().(*serverStream)
	ss.sc, ss.m, ss.sv = sc, m, ss
	ss.c, ss.id = &sc.conn, id
	ss.recv = wire.NewRecvWindow(sc.streamWin)
	ss.send.Avail = int64(sc.peer.StreamWindow)
	ss.queue = ss.first[:0]
	ss.ctx = &callCtx{parent: sc.base, m: m, md: sc.md, ss: ss}
	if o.Timeout > 0 {
		ss.ctx.deadline = time.Now().Add(o.Timeout)
	}
	if o.Md != nil || o.Authority != "" {
		md := o.Md
		if md == nil {
			md = metadata.MD{}
		}
		for k, v := range sc.md {
			if _, ok := md[k]; !ok {
				md[k] = v
			}
		}
		if o.Authority != "" {
			md[":authority"] = []string{o.Authority}
		}
		ss.ctx.md = md
	}
	return ss
}

// admit checks what can be said against a call before its handler starts.
func (sc *serverConn) admit(ss *serverStream, o *wire.Open) error {
	if o.Size > sc.srv.cfg.MaxHeaderBytes {
		return status.Errorf(codes.ResourceExhausted, "rpc: metadata of %d bytes, more than %d", o.Size, sc.srv.cfg.MaxHeaderBytes)
	}
	if o.Expired {
		return status.FromContextError(context.DeadlineExceeded).Err()
	}
	if o.Codec != "" && o.Codec != "proto" {
		if err := ss.setCodec(o.Codec); err != nil {
			return err
		}
	}
	if ss.m.unary == nil && ss.m.stream == nil {
		return status.Error(codes.Unimplemented, sc.srv.unimplemented(ss.m))
	}
	return nil
}

// unqueue takes ss out of those that wait. mu is held.
func (sc *serverConn) unqueue(ss *serverStream) {
	for i, p := range sc.pending {
		if p == ss {
			sc.pending = append(sc.pending[:i], sc.pending[i+1:]...)
			return
		}
	}
}

// remove forgets a stream. mu is held.
func (sc *serverConn) remove(ss *serverStream) {
	delete(sc.streams, ss.id)
	sc.share.free(ss.charged)
	ss.charged = 0
	if ss.remoteClosed {
		sc.streamOver(0)
	} else {
		sc.streamOver(ss.recv.Credit)
	}
}

// ended accounts for a handler that has returned. mu is held.
func (sc *serverConn) ended(ss *serverStream) {
	sc.remove(ss)
	if !ss.started {
		return
	}
	ss.started = false
	sc.active--
	sc.inFlight.Add(-1)
	sc.handlers.Done()
	sc.readInBackground()
	if len(sc.pending) > 0 && sc.active < sc.maxStreams && sc.err == nil {
		next := sc.pending[0]
		sc.pending[0] = nil
		sc.pending = sc.pending[1:]
		sc.start(next)
	}
	if sc.leaving && sc.active == 0 && len(sc.pending) == 0 {
		sc.linger()
	}
}
