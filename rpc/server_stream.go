package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// serverStream is a call on the server, from OPEN to END. Those of unary calls are
// recycled, but their contexts are not, which handlers may keep.
type serverStream struct {
	stream
	sc    *serverConn
	m     *method
	ctx   *callCtx
	codec callCodec
	begun time.Time // for stats
	first [1]segment
	stats context.Context // with what stats handlers have tagged; nil: none

	// now is the message that came with OPEN, while the handler runs on the
	// goroutine that reads; it may lie in the read buffer.
	now     message
	hasNow  bool
	started bool   // given to the handler; guarded by conn.mu
	charged int64  // to conn.share; guarded by conn.mu
	inline  uint64 // which inlineRun the handler is, 0 if it runs on a goroutine of its own
	// takenOverAt is when another goroutine has gone on reading instead; it is set
	// before inlineRun.end returns false.
	takenOverAt time.Time

	// Guarded by ctx.hmu.
	header     metadata.MD
	headerSent bool
	trailer    metadata.MD
}

var _ grpc.ServerStream = (*serverStream)(nil)

// serverStreams recycles the streams of unary calls.
var serverStreams = sync.Pool{New: func() any { return &serverStream{} }}

// recycle makes ss as new and puts it into the pool. Nobody else uses it any more.
func (ss *serverStream) recycle() {
	ss.ctx.hmu.Lock()
	ss.ctx.ss = nil
	ss.ctx.hmu.Unlock()
	*ss = serverStream{}
	serverStreams.Put(ss)
}

// Context implements grpc.ServerStream.
func (ss *serverStream) Context() context.Context {
	if ss.stats != nil {
		return ss.stats
	}
	return ss.ctx
}

// SetHeader implements grpc.ServerStream.
func (ss *serverStream) SetHeader(md metadata.MD) error {
	ss.ctx.hmu.Lock()
	defer ss.ctx.hmu.Unlock()
	return ss.setHeader(md)
}

// setHeader is SetHeader with ctx.hmu held.
func (ss *serverStream) setHeader(md metadata.MD) error {
	if len(md) == 0 {
		return nil
	}
	md, err := outgoing(md)
	if err != nil {
		return err
	}
	if ss.headerSent {
		return status.Error(codes.Internal, "rpc: SetHeader after the header was sent")
	}
	ss.header = metadata.Join(ss.header, md)
	return nil
}

// outgoing returns md with lower-case keys, and an error if it may not be sent.
func outgoing(md metadata.MD) (metadata.MD, error) {
	out := make(metadata.MD, len(md))
	for k, vs := range md {
		out.Append(k, vs...)
	}
	for k := range out {
		if reserved(k) {
			delete(out, k)
		}
	}
	if bad := wire.CheckMetadata(out); bad != "" {
		return nil, status.Error(codes.Internal, "rpc: "+bad)
	}
	return out, nil
}

// SendHeader implements grpc.ServerStream.
func (ss *serverStream) SendHeader(md metadata.MD) error {
	ss.ctx.hmu.Lock()
	defer ss.ctx.hmu.Unlock()
	return ss.sendHeader(md)
}

// sendHeader is SendHeader with ctx.hmu held.
func (ss *serverStream) sendHeader(md metadata.MD) error {
	if err := ss.setHeader(md); err != nil {
		return err
	}
	if ss.headerSent {
		return status.Error(codes.Internal, "rpc: SendHeader called twice")
	}
	return ss.writeHeader(sock.Now)
}

// writeHeader sends what was set as header. ctx.hmu is held.
func (ss *serverStream) writeHeader(when sock.When) error {
	ss.headerSent = true
	if n := wire.MetadataSize(ss.header); n > ss.sc.headerLimit() {
		return status.Errorf(codes.ResourceExhausted, "rpc: header of %d bytes, more than the %d the client takes", n, ss.sc.headerLimit())
	}
	ss.sc.srv.stats.outHeader(ss)
	c := ss.c
	f := sock.Frame{Header: wire.Header{Type: wire.FrameHeader, Stream: ss.id}}
	if len(ss.header) > 0 {
		f.Header.Flags = wire.FlagHead
		f.Head = wire.AppendMetadataItem(nil, wire.TagMetadata, ss.header)
	}
	c.mu.Lock()
	err := ss.err
	if err != nil {
		c.mu.Unlock()
		return err
	}
	run := c.w.Append(&f, when)
	c.mu.Unlock()
	if run {
		c.w.Run(false)
	}
	return nil
}

// SetTrailer implements grpc.ServerStream.
func (ss *serverStream) SetTrailer(md metadata.MD) {
	ss.ctx.hmu.Lock()
	defer ss.ctx.hmu.Unlock()
	ss.setTrailer(md)
}

// setTrailer is SetTrailer with ctx.hmu held.
func (ss *serverStream) setTrailer(md metadata.MD) {
	if len(md) == 0 {
		return
	}
	out, err := outgoing(md)
	if err != nil {
		ss.sc.srv.log.Warn("rpc: trailer not sent", "method", ss.m.name, "error", err)
		return
	}
	ss.trailer = metadata.Join(ss.trailer, out)
}

// SendMsg implements grpc.ServerStream. m is the caller's again when it returns.
func (ss *serverStream) SendMsg(m any) error {
	var e encoded
	if err := e.encode(&ss.codec, m); err != nil {
		return err
	}
	defer e.free()
	if e.size() > ss.sc.srv.cfg.MaxSendMsgSize {
		return status.Errorf(codes.ResourceExhausted, "rpc: trying to send message larger than max (%d vs. %d)", e.size(), ss.sc.srv.cfg.MaxSendMsgSize)
	}
	ss.ctx.hmu.Lock()
	if !ss.headerSent {
		if len(ss.header) > 0 || ss.sc.srv.stats != nil {
			if err := ss.writeHeader(sock.Later); err != nil {
				ss.ctx.hmu.Unlock()
				return err
			}
		}
		ss.headerSent = true
	}
	ss.ctx.hmu.Unlock()
	if err := ss.sendMessage(e.head, e.body, 0, ss.bulkWhen(e.size())); err != nil {
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Internal, "rpc: SendMsg on a stream that has ended")
		}
		return err
	}
	ss.sc.srv.stats.outPayload(ss.Context(), m, e.size(), false)
	return nil
}

// RecvMsg implements grpc.ServerStream.
func (ss *serverStream) RecvMsg(m any) error {
	ss.sent.Store(0)
	return ss.decode(m)
}

// decode receives the next message into m.
func (ss *serverStream) decode(v any) error {
	var msg message
	if ss.hasNow {
		msg, ss.hasNow = ss.now, false
		ss.now = message{}
	} else {
		var err error
		if msg, err = ss.next(ss.sc.maxRecv); err != nil {
			if ss.m.unary != nil && errors.Is(err, io.EOF) {
				return status.Error(codes.Internal, "rpc: the request has no message")
			}
			return err
		}
	}
	size := len(msg.data)
	if err := msg.decode(&ss.codec, v); err != nil {
		return status.Errorf(codes.Internal, "rpc: failed to unmarshal the received message: %v", err)
	}
	ss.sc.srv.stats.inPayload(ss.Context(), v, size, false)
	return nil
}

// expire ends a call whose time is up, and lets the client know.
func (ss *serverStream) expire() {
	c := ss.c
	c.mu.Lock()
	if ss.err == nil {
		c.w.AppendControl(func(b []byte) []byte { return wire.AppendReset(b, ss.id, wire.CodeDeadline, "") })
	}
	ss.over(status.FromContextError(context.DeadlineExceeded).Err(), true)
	c.mu.Unlock()
	c.w.Flush()
	ss.ctx.cancel(context.DeadlineExceeded)
}

// refuse ends a call that needs more than the server has for it, and lets the client
// know. conn.mu is held, by the goroutine that reads.
func (ss *serverStream) refuse(why string) {
	ss.c.w.AppendControl(func(b []byte) []byte { return wire.AppendReset(b, ss.id, wire.CodeResource, why) })
	ss.over(status.Error(codes.ResourceExhausted, "rpc: "+why), false)
	ss.ctx.cancel(context.Canceled)
}

// over ends what the handler waits for with err, or the call if it has no handler yet.
// conn.mu is held; outside is as of conn.wake.
func (ss *serverStream) over(err error, outside bool) {
	ss.stop(err, outside)
	if !ss.started {
		ss.sc.unqueue(ss)
		ss.sc.remove(ss)
	}
}

// run runs the handler on its own goroutine.
func (ss *serverStream) run() {
	if ss.m.unary != nil {
		ss.runUnary()
		return
	}
	ss.runStream()
}

// decoder is the dec function of a unary handler, made once and used often.
type decoder struct {
	ss *serverStream
	fn func(any) error
}

var decoders = sync.Pool{New: func() any {
	d := &decoder{}
	d.fn = func(v any) error { return d.ss.decode(v) }
	return d
}}

// runUnary runs the handler of a unary call and sends its answer. It reports
// whether the caller may go on reading, if it did before.
func (ss *serverStream) runUnary() (mine bool) {
	done := false
	var reply any
	var err error
	defer func() {
		if !done {
			// A panic, or runtime.Goexit, after which this goroutine will end.
			p := recover()
			err = ss.crashed(p)
			mine = ss.sc.inline.end(ss) || ss.inline == 0
			if p == nil && ss.inline != 0 && mine {
				ss.sc.readElsewhere()
				mine = false
			}
			ss.answer(nil, err, false)
		}
	}()
	d := decoders.Get().(*decoder)
	d.ss = ss
	ss.sc.srv.stats.begin(ss)
	var start time.Time
	if ss.inline == 0 {
		start = time.Now()
	}
	reply, err = ss.m.unary.Handler(ss.m.impl, ss.Context(), d.fn, ss.sc.srv.cfg.UnaryInterceptor)
	if ss.inline == 0 {
		d := time.Since(start) // without the answer, whose write may wake a process that takes this CPU
		if d <= quick && ss.m.pace.proves() && lockedToThread() {
			ss.sc.srv.runApart(ss.m)
		}
		ss.m.pace.took(d)
	}
	d.ss = nil
	decoders.Put(d)
	done = true
	mine = ss.sc.inline.end(ss)
	if !mine && ss.inline != 0 && time.Since(ss.takenOverAt) <= quick {
		ss.m.pace.excuse()
	}
	if ss.answer(reply, err, mine) {
		ss.recycle()
	}
	return mine
}

// runStream runs the handler of a stream.
func (ss *serverStream) runStream() {
	var err error
	done := false
	defer func() {
		if !done {
			err = ss.crashed(recover())
		}
		ss.finish(err, nil, sock.Yield)
	}()
	srv := ss.sc.srv
	srv.stats.begin(ss)
	if !ss.ctx.deadline.IsZero() {
		ss.ctx.Done() // starts the timer
	}
	d := ss.m.stream
	if i := srv.cfg.StreamInterceptor; i != nil {
		info := &grpc.StreamServerInfo{FullMethod: ss.m.name, IsClientStream: d.ClientStreams, IsServerStream: d.ServerStreams}
		err = i(ss.m.impl, ss, info, d.Handler)
	} else {
		err = d.Handler(ss.m.impl, ss)
	}
	done = true
}

// crashed turns a panic of the handler into an error.
func (ss *serverStream) crashed(p any) error {
	if p == nil {
		ss.sc.srv.log.Error("rpc: handler ended its goroutine", "method", ss.m.name)
		return status.Errorf(codes.Internal, "rpc: the handler of %s ended its goroutine", ss.m.name)
	}
	return ss.sc.srv.cfg.panicked(ss.m.name, p)
}

// answer sends the reply of a unary handler and ends the call. It reports whether
// nobody else uses ss from now on.
func (ss *serverStream) answer(reply any, err error, inline bool) (released bool) {
	when := sock.Yield
	if inline {
		when = sock.Later
	}
	var e encoded
	if err == nil {
		err = e.encode(&ss.codec, reply)
	}
	e.reply, _ = reply.(freer)
	if err != nil {
		e.free()
		return ss.finish(err, nil, when)
	}
	if limit := ss.sc.srv.cfg.MaxSendMsgSize; e.size() > limit {
		err = status.Errorf(codes.ResourceExhausted, "rpc: trying to send message larger than max (%d vs. %d)", e.size(), limit)
		e.free()
		return ss.finish(err, nil, when)
	}
	ss.sc.srv.stats.outPayload(ss.Context(), reply, e.size(), false)
	released = ss.finish(nil, &e, when)
	e.free()
	return released
}

// setCodec finds the codec for a content subtype.
func (ss *serverStream) setCodec(name string) error {
	v2, ok := findCodec(name)
	if !ok {
		return unknownSubtype(name)
	}
	ss.codec.v2 = v2
	return nil
}

// unknownSubtype is what a call gets for whose messages the server has no codec.
func unknownSubtype(name string) error {
	return status.Errorf(codes.Unimplemented, "rpc: no codec is registered for content-subtype %q", name)
}
