package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

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
	m, err := sc.opened(h, &o)
	if err == nil && sc.leaving && h.Stream > sc.last {
		sc.streamOver(int64(sc.streamWin))
		m, err = nil, sc.skip(h, msg)
	}
	if m == nil {
		sc.mu.Unlock()
		buf.Pool.Put(own)
		return err
	}
	sc.calls++
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
	if !waits && sc.runsInline(m, h) {
		return sc.openInline(ss, h, msg, own)
	}
	return sc.openApart(ss, h, head, msg, own, waits)
}

// opened checks the stream of an OPEN against those before it and returns its method.
// mu is held.
func (sc *serverConn) opened(h wire.Header, o *wire.Open) (*method, error) {
	if sc.err != nil {
		return nil, sc.err
	}
	if h.Stream <= sc.lastID {
		return nil, wire.Errorf(wire.CodeProtocol, "OPEN of stream %d after stream %d", h.Stream, sc.lastID)
	}
	sc.lastID = h.Stream
	return sc.method(h, o)
}

// runsInline reports whether the handler of a call of m runs on the goroutine that reads:
// it has proved to be quick, and the whole request is there. mu is held.
func (sc *serverConn) runsInline(m *method, h wire.Header) bool {
	return m.unary != nil && h.Flags&(wire.FlagMsg|wire.FlagMore) == wire.FlagMsg &&
		sc.inlineReader == nil && !sc.srv.cfg.HandlersApart && m.pace.quick()
}

// openInline runs the handler of ss. It takes own and unlocks mu.
func (sc *serverConn) openInline(ss *serverStream, h wire.Header, msg []byte, own *[]byte) error {
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
	sc.inline.begin(ss)
	if !ss.runUnary() {
		return errReaderMoved
	}
	if sc.batchOpens%fullAnswers == 0 || sc.batchOpens == firstAnswers && sc.rd.Left() >= manyMore {
		sc.w.Flush() // let the client begin with what there is
	}
	return nil
}

// openApart has the handler of ss run on a goroutine of its own, once there is room for
// it if ss waits. It takes own and unlocks mu.
func (sc *serverConn) openApart(ss *serverStream, h wire.Header, head, msg []byte, own *[]byte, waits bool) error {
	if ss.charged = callCost + int64(len(head)); !sc.share.hold(ss.charged, 1) {
		ss.charged = 0
		return sc.refuse(h, msg, own, "the calls of this client hold too much of the server")
	}
	defer sc.mu.Unlock()
	sc.streams[h.Stream] = &ss.stream
	if h.Flags&(wire.FlagMsg|wire.FlagClose) != 0 {
		if err := ss.receive(h, head, msg, own); err != nil {
			return err
		}
	} else {
		buf.Pool.Put(own)
	}
	if !waits {
		sc.start(ss)
		return nil
	}
	sc.pending = append(sc.pending, ss)
	if !ss.ctx.deadline.IsZero() {
		ss.ctx.Done() // starts the timer
	}
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
			return m, sc.number(i, m)
		}
		return m, nil
	}
	if i == 0 || i >= len(sc.methods) || sc.methods[i] == nil {
		return nil, wire.Errorf(wire.CodeProtocol, "OPEN with method number %d, which has no name yet", i)
	}
	return sc.methods[i], nil
}

// number remembers the number of a method. The client is charged for the names of those
// that the server does not have. mu is held.
func (sc *serverConn) number(i int, m *method) error {
	for len(sc.methods) <= i {
		sc.methods = append(sc.methods, nil)
	}
	more := sc.srv.nameCost(m) - sc.srv.nameCost(sc.methods[i])
	if more > 0 && (sc.err != nil || !sc.share.hold(more, 1)) {
		return wire.Errorf(wire.CodeResource, "the names of methods take too much of the server")
	}
	sc.share.free(max(-more, 0))
	sc.methods[i] = m
	sc.named += more
	return nil
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
