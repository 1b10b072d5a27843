package rpc

import (
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// errHandlerDone is what goroutines of a handler get that use its stream after it
// has returned.
var errHandlerDone = status.Error(codes.Canceled, "rpc: the handler has returned")

// maxMetadata bounds metadata, as wire.MetadataSize counts it, so that it fits into a
// frame with all that may be beside it.
const maxMetadata = 60 << 10

// finish ends the call with err, or with OK and, for a unary call, the message e.
// With sock.Later it does not sleep, and nor does it use e after returning: the
// caller is the goroutine that reads. It reports whether nobody else uses ss from
// now on.
func (ss *serverStream) finish(err error, e *encoded, when sock.When) (released bool) {
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
		return ss.finishLong(e, hdr, when)
	}
	done, released := ss.end(head, e, when)
	if !done && e != nil {
		// There is no credit for the answer, and the caller cannot wait for it.
		kept := e.keep()
		go func() {
			defer kept.free()
			ss.end(head, kept, sock.Yield)
		}()
	}
	ss.sc.srv.stats.end(ss, st, trailer)
	ss.ctx.cancel(errCanceled)
	return released
}

// finishLong is finish for an answer that is too long for END.
func (ss *serverStream) finishLong(e *encoded, hdr metadata.MD, when sock.When) (released bool) {
	if when == sock.Later {
		kept := e.keep()
		go func() {
			defer kept.free()
			ss.finishLong(kept, hdr, sock.Yield)
		}()
		return false
	}
	ss.ctx.hmu.Lock()
	var err error
	if len(hdr) > 0 {
		err = ss.writeHeader(sock.Later)
	}
	ss.ctx.hmu.Unlock()
	if err == nil {
		err = ss.sendMessage(e.head, e.body, 0, sock.Now)
	}
	return ss.finish(err, nil, sock.Now)
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

// end appends END and forgets the stream. With sock.Later it is not done, and does
// nothing, if it would have to wait for credit. If ss is released, nobody else uses it
// from now on.
func (ss *serverStream) end(head []byte, e *encoded, when sock.When) (done, released bool) {
	c := ss.c
	f := &ss.out
	if e == nil {
		// A goroutine of the handler's may still be sending. With a message the
		// call is unary, and there is none.
		f = new(sock.Frame)
	}
	c.mu.Lock()
	*f = sock.Frame{Header: wire.Header{Type: wire.FrameEnd, Stream: ss.id}}
	if len(head) > 0 {
		f.Header.Flags = wire.FlagHead
		f.Head = head
	}
	if e != nil && ss.err == nil && c.err == nil {
		n := e.size()
		if when == sock.Later {
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
			f.Header.Flags |= wire.FlagMsg
			ss.cut(e.head, e.body, 0, n)
		}
	}
	over := ss.err != nil || c.err != nil
	if over && f.Ref != nil {
		ss.ref = sock.Payload{}
	}
	ss.localClosed = true
	ref := ss.ref.B // keep stop from taking our own payload for a sender's
	if f.Ref != nil {
		ss.ref.B = nil
	}
	ss.stop(errHandlerDone, false)
	ss.ref.B = ref
	ss.sc.ended(ss)
	released = ss.unlisted()
	if over {
		*f = sock.Frame{}
		c.mu.Unlock()
		return true, released
	}
	if when == sock.Later {
		return true, ss.writeWhileReading(f, e) && released
	}
	ss.write(f, when)
	return true, released
}

// writeWhileReading appends f on the goroutine that reads, which writes it at
// the end of its batch. mu is held, and is not afterwards. It reports whether nobody
// uses ss any more.
func (ss *serverStream) writeWhileReading(f *sock.Frame, e *encoded) bool {
	c := ss.c
	when := sock.Later
	if f.Ref != nil {
		when = sock.Now
	}
	run := c.w.Append(f, when)
	c.mu.Unlock()
	if f.Ref == nil {
		*f = sock.Frame{}
		return true
	}
	if run {
		c.w.Run(false)
	}
	c.mu.Lock()
	done := ss.ref.Done
	c.mu.Unlock()
	if done {
		ss.ref, *f = sock.Payload{}, sock.Frame{}
		return true
	}
	kept := e.keep()
	go func() {
		ss.awaitRef()
		*f = sock.Frame{}
		kept.free()
	}()
	return false
}
