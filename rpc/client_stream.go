package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// clientStream is a call of a client. Those of unary calls are recycled.
type clientStream struct {
	stream
	cc   *clientConn
	ctx  context.Context
	info callInfo
	desc *grpc.StreamDesc
	name string
	opts []grpc.CallOption
	stop func() bool // ends watching ctx

	released bool // the connection no longer knows it; owned by the caller
	first    [1]segment
	headRoom [96]byte
	cancelFn func() // cs.cancelled, made once

	// Guarded by conn.mu.
	opened      bool   // OPEN was sent
	opening     bool   // one of the stream's users is about to send it
	ow          waiter // for the others meanwhile
	header      metadata.MD
	headerKnown bool
	hw          waiter // for the header
	trailer     metadata.MD

	md       metadata.MD // of the request, until it is opened
	begun    time.Time   // for stats
	statsCtx context.Context
	finished sync.Once
}

var _ grpc.ClientStream = (*clientStream)(nil)

// setHeader makes md the header. conn.mu is held.
func (cs *clientStream) setHeader(md metadata.MD) {
	if cs.headerKnown {
		return
	}
	cs.header, cs.headerKnown = md, true
	cs.c.wake(&cs.hw, false)
}

// end ends the call with what END says. conn.mu is held.
func (cs *clientStream) end(e *wire.End) {
	cs.trailer = e.Trailer
	cs.remoteClosed, cs.localClosed = true, true
	if cs.eof = e.Err(); cs.eof == nil {
		cs.eof = io.EOF
	}
	cs.cc.forget(&cs.stream)
	c := cs.c
	c.wakeLater(&cs.stream)
	c.wake(&cs.sw, false)
	c.wake(&cs.hw, false)
}

// over ends the call with err, locally or because of a RESET. conn.mu is held.
func (cs *clientStream) over(err error) {
	cs.cc.forget(&cs.stream)
	cs.stream.stop(err, true)
	cs.c.wake(&cs.hw, true)
	cs.c.wake(&cs.ow, true)
}

// cancelled is called when the call's context has ended.
func (cs *clientStream) cancelled() {
	c := cs.c
	err := cs.ctx.Err()
	c.mu.Lock()
	if cs.err != nil || cs.remoteClosed && cs.eof != nil && len(cs.queue) == 0 && cs.run.cost == 0 {
		c.mu.Unlock()
		return
	}
	// That includes messages that were received and that nobody will read now.
	cs.abort(status.FromContextError(err).Err())
	c.mu.Unlock()
	c.w.Flush()
}

// abort ends the call with err and lets the server know. conn.mu is held.
func (cs *clientStream) abort(err error) {
	id, open := cs.id, cs.opened && cs.cc.streams[cs.id] == &cs.stream
	code := wire.CodeCancelled
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		code = wire.CodeDeadline
	case codes.ResourceExhausted:
		code = wire.CodeResource
	}
	cs.over(err)
	if open {
		cs.c.w.AppendControl(func(b []byte) []byte { return wire.AppendReset(b, id, code, "") })
	}
}

// open begins the stream, with the message e if it is not nil and fits. last says
// that nothing follows it. It returns whether e was sent, and an *errNotRun if the
// call may be made on another connection. If another user of the stream is opening
// it, open waits, and then has nothing to do.
func (cs *clientStream) open(e *encoded, last bool) (sent bool, err error) {
	cc := cs.cc
	c := &cc.conn
	c.mu.Lock()
	for cs.opening && cs.err == nil {
		c.await(&cs.ow)
	}
	if cs.opened || cs.err != nil {
		err := cs.err
		c.mu.Unlock()
		return false, err
	}
	cs.opening = true
	err = cs.admit()
	cs.opening = false
	c.wake(&cs.ow, true)
	if err != nil {
		c.mu.Unlock()
		if isNotRun(err) {
			cc.client.leave(cc)
		}
		return false, err
	}
	head, m, err := cs.openHead(cs.headRoom[:0])
	if err != nil {
		cc.wakeSlots() // the place goes to another call
		c.mu.Unlock()
		return false, err
	}
	cs.enlist()
	f := &cs.out
	if e == nil {
		f = new(sock.Frame) // out belongs to the goroutine that sends, which may be another
	}
	*f = sock.Frame{Header: wire.Header{Type: wire.FrameOpen, Stream: cs.id}, Head: head}
	if len(head) > 0 {
		f.Header.Flags = wire.FlagHead
	}
	if m != nil {
		f.Header.Method = m.n
		m.known = true
	}
	when := sock.Now
	if e != nil {
		n := e.size()
		_, ok := cs.send.Fit(n, n)
		if ok {
			_, ok = c.send.Fit(n, n)
		}
		if ok && n+len(head) <= wire.MaxPayload-headRoom {
			cs.send.Take(n)
			c.send.Take(n)
			sent = true
			f.Header.Flags |= wire.FlagMsg
			if last {
				f.Header.Flags |= wire.FlagClose
				cs.localClosed = true
			}
			cs.cut(e.head, e.body, 0, n)
			when = sock.Yield
		} else {
			when = sock.Later
		}
	}
	cs.write(f, when)
	return sent, nil
}

// enlist gives the stream its id and enters it into the table. conn.mu is held.
func (cs *clientStream) enlist() {
	c := cs.c
	c.lastID++
	cs.id = c.lastID
	cs.opened = true
	cs.recv = wire.NewRecvWindow(c.streamWin)
	cs.send.Avail = int64(c.peer.StreamWindow)
	if cs.queue == nil {
		cs.queue = cs.first[:0]
	}
	c.streams[cs.id] = &cs.stream
	c.inFlight.Add(1)
}

// admit waits until the stream may be opened. conn.mu is held.
func (cs *clientStream) admit() error {
	cc := cs.cc
	c := &cc.conn
	for {
		switch {
		case cs.err != nil:
			return cs.err
		case c.err != nil:
			return notRun(c.err)
		case c.lastID == lastStream:
			c.draining = true
			fallthrough
		case c.draining:
			return &errNotRun{status.Error(codes.Unavailable, "rpc: the connection is being closed")}
		}
		if len(c.streams) >= cc.maxStreams() {
			cc.slots = append(cc.slots, &cs.sw)
			c.await(&cs.sw)
			if cs.err != nil || c.err != nil || c.draining {
				cc.leaveSlots(&cs.sw)
			}
			continue
		}
		full := c.w.AwaitRoom()
		if !full {
			return nil
		}
		c.roomWait = append(c.roomWait, &cs.stream)
		cs.listed++
		c.await(&cs.sw)
	}
}

// notRun is the error of a call that was not sent because the connection has ended.
func notRun(err error) error {
	if nn := asNotNative(err); nn != nil {
		return &errNotRun{nn.callError()}
	}
	return &errNotRun{lostError(err)}
}

// wire.Open appends the head of OPEN to b. conn.mu is held.
func (cs *clientStream) openHead(b []byte) ([]byte, *methodNumber, error) {
	cc := cs.cc
	if len(cs.name) > maxMethodName || !utf8.ValidString(cs.name) {
		return nil, nil, status.Errorf(codes.Unimplemented, "rpc: a method name of %d bytes, of %d at most in UTF-8", len(cs.name), maxMethodName)
	}
	m := cc.methods[cs.name]
	if m == nil && len(cc.methods) < maxMethods {
		m = &methodNumber{n: uint16(len(cc.methods) + 1)}
		cc.methods[cs.name] = m
	}
	if m == nil || !m.known {
		b = wire.AppendItem(b, wire.TagMethod, cs.name)
	}
	if d, ok := cs.ctx.Deadline(); ok {
		left := time.Until(d)
		if left <= 0 {
			return nil, nil, status.FromContextError(context.DeadlineExceeded).Err()
		}
		b = wire.AppendUintItem(b, wire.TagTimeout, uint64(left))
	}
	if cs.info.codecName != "" && cs.info.codecName != "proto" {
		b = wire.AppendItem(b, wire.TagCodec, wire.Clip(cs.info.codecName, 128))
	}
	if a := cs.info.authority; a != "" {
		b = wire.AppendItem(b, wire.TagAuthority, wire.Clip(a, wire.MaxAuthority))
	}
	return wire.AppendMetadataItem(b, wire.TagMetadata, cs.md), m, nil
}

// Context implements grpc.ClientStream.
func (cs *clientStream) Context() context.Context {
	if cs.statsCtx != nil {
		return cs.statsCtx
	}
	return cs.ctx
}

// Header implements grpc.ClientStream.
func (cs *clientStream) Header() (metadata.MD, error) {
	if err := cs.openNow(); err != nil {
		return nil, err
	}
	c := cs.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for !cs.headerKnown && cs.err == nil && len(cs.queue) == 0 && !cs.remoteClosed {
		c.await(&cs.hw)
	}
	if !cs.headerKnown && cs.err != nil {
		return nil, unwrapNotRun(cs.err)
	}
	return cs.header.Copy(), nil
}

// Trailer implements grpc.ClientStream.
func (cs *clientStream) Trailer() metadata.MD {
	cs.c.mu.Lock()
	defer cs.c.mu.Unlock()
	return cs.trailer.Copy()
}

// openNow opens the stream if that was left to the first message. A context that
// has ended counts from now on, and not only when somebody has told the stream.
func (cs *clientStream) openNow() error {
	if cs.ctx.Err() != nil {
		cs.cancelled()
	}
	cs.c.mu.Lock()
	opened := cs.opened
	cs.c.mu.Unlock()
	if opened {
		return nil
	}
	_, err := cs.open(nil, false)
	if err != nil {
		err = unwrapNotRun(err)
		cs.finish(err)
	}
	return err
}

// CloseSend implements grpc.ClientStream.
func (cs *clientStream) CloseSend() error {
	if err := cs.openNow(); err != nil {
		return nil // RecvMsg returns it
	}
	c := cs.c
	c.mu.Lock()
	if cs.localClosed || cs.err != nil || c.err != nil {
		c.mu.Unlock()
		return nil
	}
	cs.localClosed = true
	cs.write(&sock.Frame{Header: wire.Header{Type: wire.FrameData, Flags: wire.FlagClose, Stream: cs.id}}, sock.Now)
	return nil
}

// SendMsg implements grpc.ClientStream. m is the caller's again when it returns.
func (cs *clientStream) SendMsg(m any) error {
	var e encoded
	if err := e.encode(&cs.info.codec, m); err != nil {
		return err
	}
	defer e.free()
	size := e.size()
	if size > cs.info.maxSend {
		return status.Errorf(codes.ResourceExhausted, "rpc: trying to send message larger than max (%d vs. %d)", size, cs.info.maxSend)
	}
	c := cs.c
	c.mu.Lock()
	opened := cs.opened
	c.mu.Unlock()
	sent := false
	flags := uint8(0)
	if !cs.desc.ClientStreams {
		flags = wire.FlagClose
	}
	if !opened {
		var err error
		if sent, err = cs.open(&e, flags != 0); err != nil {
			cs.finish(unwrapNotRun(err))
			return unwrapNotRun(err)
		}
	}
	if !sent {
		if err := cs.sendMessage(e.head, e.body, flags, cs.bulkWhen(size)); err != nil {
			if errors.Is(err, io.EOF) {
				c.mu.Lock()
				ended := cs.remoteClosed && cs.eof != nil
				c.mu.Unlock()
				if !ended {
					return status.Error(codes.Internal, "rpc: SendMsg after CloseSend")
				}
			}
			return io.EOF // RecvMsg returns the status
		}
	}
	cs.cc.client.stats.outPayload(cs.Context(), m, size, true)
	return nil
}

// RecvMsg implements grpc.ClientStream.
func (cs *clientStream) RecvMsg(m any) error {
	if err := cs.openNow(); err != nil {
		return err
	}
	cs.sent.Store(0)
	err := cs.recvMsg(m)
	if err == nil && !cs.desc.ServerStreams {
		// The one answer is only good with the status that follows it.
		switch err = cs.noMore(); {
		case err == nil:
			err = status.Error(codes.Internal, "rpc: a second message, where the method answers with one")
			cs.cancelWith(err)
		case errors.Is(err, io.EOF):
			cs.finish(nil)
			return nil
		}
	} else if errors.Is(err, io.EOF) && !cs.desc.ServerStreams {
		err = status.Error(codes.Internal, "rpc: the status is OK, but there is no message")
	}
	if err != nil {
		err = unwrapNotRun(err)
		cs.finish(err)
	}
	return err
}

// recvMsg receives one message into m.
func (cs *clientStream) recvMsg(m any) error {
	msg, err := cs.next(cs.info.maxRecv)
	if err != nil {
		if status.Code(err) == codes.ResourceExhausted {
			cs.cancelWith(err)
		}
		return err
	}
	size := len(msg.data)
	if err := msg.decode(&cs.info.codec, m); err != nil {
		err = status.Errorf(codes.Internal, "rpc: failed to unmarshal the received message: %v", err)
		cs.cancelWith(err)
		return err
	}
	cs.cc.client.stats.inPayload(cs.Context(), m, size, true)
	return nil
}

// noMore waits for the end of the stream and returns what it says: io.EOF for OK.
// It returns nil if there is another message instead.
func (cs *clientStream) noMore() error {
	msg, err := cs.next(cs.info.maxRecv)
	if err == nil {
		msg.drop()
	}
	return err
}

// cancelWith ends the call with err, if it goes on.
func (cs *clientStream) cancelWith(err error) {
	c := cs.c
	c.mu.Lock()
	if cs.err == nil && !(cs.remoteClosed && cs.eof != nil) {
		cs.abort(err)
	}
	c.mu.Unlock()
	c.w.Flush()
}

// finish ends the call for whoever observes it. err is nil or io.EOF for success.
func (cs *clientStream) finish(err error) {
	cs.finished.Do(func() {
		if cs.stop != nil {
			cs.stop()
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		c := cs.c
		c.mu.Lock()
		cs.discard()
		header, trailer := cs.header, cs.trailer
		c.mu.Unlock()
		c.w.Flush()
		if cs.info.observed {
			observe(cs.opts, header, trailer, &cs.cc.peerInfo)
			onFinish(cs.opts, err)
		}
		cs.cc.client.stats.clientDone(cs, header, trailer, err)
	})
}

func (h statsHandlers) clientDone(cs *clientStream, header, trailer metadata.MD, err error) {
	if h == nil {
		return
	}
	if header != nil {
		h.all(cs.statsCtx, &stats.InHeader{Client: true, Header: header.Copy(), FullMethod: cs.name,
			RemoteAddr: cs.cc.peerInfo.Addr, LocalAddr: cs.cc.peerInfo.LocalAddr})
	}
	h.all(cs.statsCtx, &stats.InTrailer{Client: true, Trailer: trailer.Copy()})
	h.clientEnd(cs.statsCtx, cs.begun, trailer, err)
}

func unwrapNotRun(err error) error {
	var nr *errNotRun
	if errors.As(err, &nr) {
		return nr.err
	}
	return err
}
