package rpc

import (
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// errHandlerDone is what goroutines of a handler get that use its stream after it
// has returned.
var errHandlerDone = status.Error(codes.Canceled, "rpc: the handler has returned")

// maxMetadata bounds metadata, as wire.MetadataSize counts it, so that it fits into a
// frame with all that may be beside it.
const maxMetadata = 60 << 10

// finish ends the call with err, or with OK and, for a unary call, the message e.
// With writeLater it does not sleep, and nor does it use e after returning: the
// caller is the goroutine that reads. It reports whether nobody else uses ss from
// now on.
func (ss *serverStream) finish(err error, e *encoded, how how) (spent bool) {
	st, _ := status.FromError(err)
	if err != nil && st.Code() == codes.Unknown {
		if _, ok := status.FromError(err); !ok {
			st = status.FromContextError(err)
		}
	}
	ss.ctx.hmu.Lock()
	var hdr metadata.MD
	if !ss.headerSent {
		hdr = ss.header
	}
	trailer := ss.trailer
	ss.headerSent = true
	ss.ctx.hmu.Unlock()
	head := ss.endHead(st, hdr, trailer)
	if e != nil && e.size()+len(head) > wire.MaxPayload-headRoom {
		return ss.finishLong(e, hdr, how)
	}
	done, spent := ss.end(head, e, how)
	if !done && e != nil {
		// There is no credit for the answer, and the caller cannot wait for it.
		kept := e.keep()
		go func() {
			defer kept.free()
			ss.end(head, kept, writeYield)
		}()
	}
	ss.sc.srv.stats.end(ss, st, trailer)
	ss.ctx.cancel(errCanceled)
	return spent
}

// finishLong is finish for an answer that is too long for END.
func (ss *serverStream) finishLong(e *encoded, hdr metadata.MD, how how) (spent bool) {
	if how == writeLater {
		kept := e.keep()
		go func() {
			defer kept.free()
			ss.finishLong(kept, hdr, writeYield)
		}()
		return false
	}
	ss.ctx.hmu.Lock()
	var err error
	if len(hdr) > 0 {
		err = ss.writeHeader(writeLater)
	}
	ss.ctx.hmu.Unlock()
	if err == nil {
		err = ss.sendMessage(e.head, e.body, 0, writeNow)
	}
	return ss.finish(err, nil, writeNow)
}

// wire.End returns the head of END, within what the client takes.
func (ss *serverStream) endHead(st *status.Status, hdr, trailer metadata.MD) []byte {
	if st.Code() == codes.OK && len(hdr) == 0 && len(trailer) == 0 {
		return nil
	}
	if n := wire.MetadataSize(hdr) + wire.MetadataSize(trailer); n > min(ss.sc.headerLimit(), maxMetadata) {
		hdr, trailer = nil, nil
		st = status.Newf(codes.ResourceExhausted, "rpc: header and trailer of %d bytes, more than the client takes", n)
	}
	head := wire.AppendMetadataItem(nil, wire.TagMetadata, hdr)
	head = wire.AppendMetadataItem(head, wire.TagTrailer, trailer)
	if st.Code() == codes.OK {
		return head
	}
	head = wire.AppendUintItem(head, wire.TagCode, uint64(st.Code()))
	room := wire.MaxHead - len(head) - 2*headRoom
	text := st.Message()
	var details []byte
	if d := st.Proto().GetDetails(); len(d) > 0 {
		var err error
		details, err = proto.Marshal(&spb.Status{Details: d})
		if left := room - min(len(text), leastText); err != nil || len(details) > left {
			ss.sc.srv.log.Warn("rpc: details of a status not sent", "method", ss.m.name, "bytes", len(details), "most", left, "error", err)
			details = nil
		}
	}
	head = wire.AppendItem(head, wire.TagMessage, wire.Clip(text, room-len(details)))
	if details != nil {
		head = wire.AppendItem(head, wire.TagDetails, string(details))
	}
	return head
}

// leastText is how much of a status's text goes before its details, if it is so long.
const leastText = 1 << 10

// end appends END and forgets the stream. With writeLater it is not done, and does
// nothing, if it would have to wait for credit. If ss is spent, nobody else uses it
// from now on.
func (ss *serverStream) end(head []byte, e *encoded, how how) (done, spent bool) {
	c := ss.c
	f := &ss.out
	if e == nil {
		// A goroutine of the handler's may still be sending. With a message the
		// call is unary, and there is none.
		f = new(frameOut)
	}
	c.mu.Lock()
	*f = frameOut{h: wire.Header{Type: wire.FrameEnd, Stream: ss.id}}
	if len(head) > 0 {
		f.h.Flags = wire.FlagHead
		f.head = head
	}
	if e != nil && ss.err == nil && c.err == nil {
		n := e.size()
		if how == writeLater {
			_, ok := ss.send.Fit(n, n)
			_, ok2 := c.send.Fit(n, n)
			if !ok || !ok2 {
				// From here on the stream may be reset.
				c.streams[ss.id] = &ss.stream
				c.mu.Unlock()
				return false, false
			}
			ss.send.Take(n)
			c.send.Take(n)
		} else if _, err := ss.allowed(n, n, false); err != nil {
			e = nil
		}
		if e != nil {
			f.h.Flags |= wire.FlagMsg
			ss.cut(e.head, e.body, 0, n)
		}
	}
	over := ss.err != nil || c.err != nil
	if over && f.ref != nil {
		ss.ref = ref{}
	}
	ss.localClosed = true
	ref := ss.ref.p // keep stop from taking our own payload for a sender's
	if f.ref != nil {
		ss.ref.p = nil
	}
	ss.stop(errHandlerDone, false)
	ss.ref.p = ref
	ss.sc.ended(ss)
	spent = ss.unlisted()
	if over {
		*f = frameOut{}
		c.mu.Unlock()
		return true, spent
	}
	if how == writeLater {
		return true, ss.writeWhileReading(f, e) && spent
	}
	ss.write(f, how)
	return true, spent
}

// writeWhileReading appends f on the goroutine that reads, which writes it at
// the end of its batch. mu is held, and is not afterwards. It reports whether nobody
// uses ss any more.
func (ss *serverStream) writeWhileReading(f *frameOut, e *encoded) bool {
	c := ss.c
	c.w.mu.Lock()
	c.w.append(f)
	run := f.ref != nil && c.w.start(writeNow)
	c.w.mu.Unlock()
	c.mu.Unlock()
	if f.ref == nil {
		*f = frameOut{}
		return true
	}
	if run {
		c.w.run(untilFull)
	}
	c.mu.Lock()
	done := ss.ref.done
	c.mu.Unlock()
	if done {
		ss.ref, *f = ref{}, frameOut{}
		return true
	}
	kept := e.keep()
	go func() {
		ss.awaitRef()
		*f = frameOut{}
		kept.free()
	}()
	return false
}
