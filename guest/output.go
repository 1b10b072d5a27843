package guest

import (
	"fmt"
	"io"
	"os"
	"sync"

	"google.golang.org/grpc/mem"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const (
	// defaultWindow is how much output, of each stream, the agent may send
	// ahead of what was consumed. It bounds the memory of a stream.
	defaultWindow = 1 << 20

	// Pieces below coalesceBelow are put together, so that a guest which sends
	// single bytes does not cost a slice for each.
	coalesceBelow = 4 << 10
	coalesceUpTo  = 64 << 10

	// maxGaps bounds the queue of a stream that reports a gap with every byte.
	maxGaps = 4 << 10
)

// output is this side's end of one output stream of a session. What arrives is
// queued up to the window; what the consumer has dealt with is acknowledged.
// There is one consumer at a time. The fields are guarded by the session's
// mutex, which is cond's.
type output struct {
	stream guestv1.Stream
	window uint64
	ack    func() // tells the session's sender that an acknowledgement is due
	onGap  func(offset, n uint64)
	cond   sync.Cond

	pieces   []piece // from taken to received
	received uint64  // the offset up to which bytes have arrived
	taken    uint64  // the offset up to which the consumer has been given bytes
	consumed uint64  // the offset up to which the consumer has dealt with them
	acked    uint64  // the offset up to which the agent knows them to be consumed
	urged    uint64  // the offset up to which the agent wants to know it at once
	limit    uint64  // the agent may send up to this offset
	lost     uint64  // bytes that never came, as the agent reported
	mayLose  bool    // whether that is allowed
	eof      bool    // nothing comes after received
	err      error   // the session ended before eof
	closed   bool    // the consumer is gone: what comes is dropped
	refuse   bool    // and the process is to know
	refused  bool    // which the agent is still to be told

	mayRefuse bool // whether the agent understands it
}

// piece is some bytes of a stream, and how many were lost before them.
type piece struct {
	lost   uint64
	data   []byte
	buffer mem.Buffer // what data lies in, or nil
}

// free gives the memory of the piece back.
func (p *piece) free() {
	if p.buffer != nil {
		p.buffer.Free()
	}
	*p = piece{}
}

func newOutput(mu *sync.Mutex, stream guestv1.Stream, offset, window uint64) *output {
	return &output{stream: stream, window: window, cond: sync.Cond{L: mu}, ack: func() {},
		received: offset, taken: offset, consumed: offset, acked: offset}
}

// opened takes over where the agent begins to send: where it was asked to, or
// later if the bytes between are lost, or anywhere if it was to choose.
func (o *output) opened(offset uint64, choose bool) error {
	if choose {
		o.taken, o.consumed = offset, offset
	}
	switch {
	case offset < o.taken:
		return protocolError("%s begins at %d, before the offset asked for, %d", o.name(), offset, o.taken)
	case offset > o.taken && !o.mayLose && !o.refuse:
		return o.lostError(o.taken, offset-o.taken)
	case offset+o.window < offset:
		return protocolError("%s begins at offset %d", o.name(), offset)
	}
	o.received, o.acked = o.taken, o.taken
	if offset > o.taken {
		o.lose(offset - o.taken)
	}
	o.limit = offset + o.window
	return nil
}

// rewind forgets what has arrived and was not taken, to be sent again on the
// next connection. So what is acknowledged is only ever what was consumed.
func (o *output) rewind() {
	o.drop()
	o.eof = false
	o.received = o.taken
}

// drop forgets the queue.
func (o *output) drop() {
	for i := range o.pieces {
		o.pieces[i].free()
	}
	o.pieces = nil
}

// lose notes that n bytes after received never come.
func (o *output) lose(n uint64) {
	if !o.refuse {
		o.lost += n
	}
	o.received += n
	if last := len(o.pieces) - 1; last >= 0 && len(o.pieces[last].data) == 0 {
		o.pieces[last].lost += n
		return
	}
	o.pieces = append(o.pieces, piece{lost: n})
}

// accept takes a message of the agent in, or says how it breaks the protocol. It
// takes over the buffer that the message's data lies in, unless that is nil.
func (o *output) accept(m *guestv1.Output, buffer mem.Buffer) (err error) {
	defer func() {
		if err != nil && buffer != nil {
			buffer.Free()
		}
	}()
	n := uint64(len(m.Data))
	switch {
	case o.eof:
		return protocolError("%s goes on after its end", o.name())
	case n == 0 && !m.Eof && m.Lost == 0 && !m.Acknowledge:
		return protocolError("%s has an empty message", o.name())
	case m.Lost > m.Offset || m.Offset-m.Lost != o.received:
		return protocolError("%s continues at offset %d with %d bytes lost, want offset %d", o.name(), m.Offset, m.Lost, o.received)
	case m.Offset+n+o.window < m.Offset:
		return protocolError("%s continues at offset %d", o.name(), m.Offset)
	case m.Lost > 0 && !o.mayLose && !o.refuse:
		return o.lostError(o.received, m.Lost)
	case m.Lost > 0 && len(o.pieces) >= maxGaps:
		return protocolError("%s has more than %d gaps in its window", o.name(), maxGaps)
	}
	if m.Lost > 0 {
		// Lost bytes cost no memory, so the window moves along.
		o.limit += m.Lost
		o.lose(m.Lost)
	}
	if o.received+n > o.limit {
		return protocolError("%s exceeds its window: %d bytes from offset %d, allowed up to %d", o.name(), n, o.received, o.limit)
	}
	o.received += n
	o.eof = m.Eof
	if n > 0 {
		o.queue(piece{data: m.Data, buffer: buffer})
	}
	if o.closed {
		o.discard()
	}
	if m.Acknowledge {
		o.urged = o.received
	}
	if o.eof || m.Acknowledge {
		o.ackIfDue()
	}
	o.cond.Signal()
	return nil
}

func (o *output) queue(p piece) {
	if n := len(o.pieces) - 1; n >= 0 {
		last := &o.pieces[n]
		switch {
		case len(last.data) == 0:
			p.lost = last.lost
			*last = p
			return
		case p.buffer == nil && last.buffer == nil && len(p.data) < coalesceBelow && len(last.data)+len(p.data) <= coalesceUpTo:
			last.data = append(last.data, p.data...)
			return
		}
	}
	o.pieces = append(o.pieces, p)
}

// discard consumes all that has arrived.
func (o *output) discard() {
	o.drop()
	o.taken, o.consumed = o.received, o.received
	o.ackIfDue()
}

func (o *output) ackIfDue() {
	if o.ackDue() {
		o.ack()
	}
}

// ackDue reports whether enough was consumed to be worth a message. The agent
// always has half of the window to send into without one.
func (o *output) ackDue() bool {
	if o.consumed <= o.acked {
		return false
	}
	return o.consumed-o.acked >= o.window/2 || o.acked < o.urged || o.eof && o.consumed == o.received
}

// flowControl returns the acknowledgement that is due, or nil; the last one is
// due for a single byte.
func (o *output) flowControl(last bool) *guestv1.FlowControl {
	if !o.ackDue() && (!last || o.consumed <= o.acked) {
		return nil
	}
	o.acked = o.consumed
	o.limit = max(o.limit, o.consumed+o.window)
	return &guestv1.FlowControl{Stream: o.stream, ConsumedOffset: o.consumed, Window: o.window}
}

// finish ends the stream at what was received. The consumer gets err, if it is
// not nil and the stream had not ended before.
func (o *output) finish(err error) {
	if !o.eof {
		o.eof, o.err = true, err
	}
	o.cond.Broadcast()
}

// next waits for bytes, which are the caller's until it reports them with done.
// It returns io.EOF at the end, and os.ErrClosed after close.
func (o *output) next() (piece, error) {
	o.cond.L.Lock()
	defer o.cond.L.Unlock()
	if err := o.wait(); err != nil {
		return piece{}, err
	}
	p := o.pieces[0]
	o.pieces[0] = piece{}
	o.pieces = o.pieces[1:]
	o.taken += uint64(len(p.data))
	return p, nil
}

// done reports the bytes of next as consumed, and frees them.
func (o *output) done(p piece) {
	p.free()
	o.cond.L.Lock()
	defer o.cond.L.Unlock()
	o.consumed = o.taken
	o.ackIfDue()
}

// wait waits until there are bytes, and reports the gaps before them. The mutex
// is held.
func (o *output) wait() error {
	for {
		switch {
		case o.closed:
			return os.ErrClosed
		case len(o.pieces) > 0 && o.pieces[0].lost > 0:
			n := o.pieces[0].lost
			o.pieces[0].lost = 0
			if len(o.pieces[0].data) == 0 {
				o.pieces = o.pieces[1:]
			}
			offset := o.taken
			o.taken += n
			o.consumed = o.taken
			if o.onGap != nil {
				o.cond.L.Unlock()
				o.onGap(offset, n)
				o.cond.L.Lock()
			}
			continue
		case len(o.pieces) > 0:
			return nil
		case o.err != nil:
			return o.err
		case o.eof:
			return io.EOF
		}
		o.cond.Wait()
	}
}

// close drops what is queued and all that comes, and has the process's end of
// the pipe closed if the agent can do that. It may be called twice.
func (o *output) close() {
	o.cond.L.Lock()
	defer o.cond.L.Unlock()
	if !o.closed && !o.eof {
		o.refuse, o.refused = true, o.mayRefuse
		o.ack()
	}
	o.closed = true
	o.discard()
	o.cond.Broadcast()
}

// copyTo writes the stream to w until its end. After a failed write the rest is
// dropped.
func (o *output) copyTo(w io.Writer) error {
	for {
		p, err := o.next()
		if err != nil {
			if err == io.EOF || err == os.ErrClosed {
				return nil
			}
			return err
		}
		n, err := w.Write(p.data)
		if err == nil && n < len(p.data) {
			err = io.ErrShortWrite
		}
		if err != nil {
			p.free()
			o.close()
			return err
		}
		o.done(p)
	}
}

func (o *output) name() string {
	if o.stream == guestv1.Stream_STREAM_STDERR {
		return "stderr"
	}
	return "stdout"
}

func (o *output) lostError(offset, n uint64) error {
	e := protocolError("")
	e.Reason, e.Remedy = ReasonOutputLost, "the session's output went to another reader, or its ring was too small"
	e.message = fmt.Sprintf("%d bytes of %s are lost from offset %d on", n, o.name(), offset)
	return e
}

// outputReader is the reading end that StdoutPipe and StderrPipe return.
type outputReader struct{ o *output }

// Read implements io.Reader.
func (r outputReader) Read(p []byte) (int, error) {
	o := r.o
	o.cond.L.Lock()
	defer o.cond.L.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := o.wait(); err != nil {
		return 0, err
	}
	n := copy(p, o.pieces[0].data)
	if o.pieces[0].data = o.pieces[0].data[n:]; len(o.pieces[0].data) == 0 {
		o.pieces[0].free()
		o.pieces = o.pieces[1:]
	}
	o.taken += uint64(n)
	o.consumed = o.taken
	o.ackIfDue()
	return n, nil
}

// Close gives the stream up: what the command writes from then on is dropped.
func (r outputReader) Close() error {
	r.o.close()
	return nil
}
