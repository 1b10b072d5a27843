package process

import (
	"google.golang.org/grpc/mem"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// stdinWindow is how much stdin the agent takes beyond what the process has
// read from its pipe.
const stdinWindow = 256 << 10

// smallInput is the size up to which pieces of stdin are put together, so that
// the keystrokes of a window do not take an allocation each.
const smallInput = 1 << 10

// input is a session's stdin: what the agent has taken from clients and the
// process has not read. It holds at most stdinWindow bytes.
type input struct {
	connected bool
	end       uint64 // all before is taken
	written   uint64 // all before is in the process's pipe, or dropped
	carried   uint64 // how much of it the process got
	eof       bool   // there is nothing after end
	closed    bool   // the process takes no more: what comes is dropped
	feeding   bool   // what pending returned is in use
	queue     []stdinPiece
}

// stdinPiece is some bytes of stdin.
type stdinPiece struct {
	data  []byte
	owned bool       // data has room behind it that is the agent's
	free  mem.Buffer // what data lies in, nil if that is garbage collected
}

// limit is the first byte that the agent does not take yet.
func (in *input) limit() uint64 { return in.written + stdinWindow }

// take appends data, the bytes from off on, but for what it has already. It
// reports whether it keeps data, and then frees buffer when it is done with it;
// buffer may be nil.
func (in *input) take(off uint64, data []byte, eof bool, buffer mem.Buffer) (kept bool, f *fault) {
	last := off + uint64(len(data))
	switch {
	case !in.connected && len(data) == 0:
		return false, nil
	case !in.connected:
		return false, noStdin()
	case last < off || off > in.end:
		return false, stdinGap(off, in.end)
	case in.eof && (last > in.end || eof && last < in.end):
		return false, stdinAfterEnd(last, in.end)
	case eof && last < in.end:
		return false, stdinAfterEnd(in.end, last)
	case last > in.limit() && !in.closed:
		return false, stdinBeyond(last, in.limit())
	}
	in.eof = in.eof || eof
	if last <= in.end {
		return false, nil
	}
	data = data[in.end-off:]
	in.end = last
	switch n := len(in.queue); {
	case in.closed:
		in.written = in.end
		return false, nil
	case len(data) > smallInput:
		in.queue = append(in.queue, stdinPiece{data: data, free: buffer})
		return true, nil
	case n > 0 && in.queue[n-1].owned && cap(in.queue[n-1].data)-len(in.queue[n-1].data) >= len(data):
		in.queue[n-1].data = append(in.queue[n-1].data, data...)
	default:
		in.queue = append(in.queue, stdinPiece{data: append(make([]byte, 0, smallChunk), data...), owned: true})
	}
	return false, nil
}

// pending returns the bytes that the process gets next, none if there are none.
// If there are, advance must follow; until then they stay as they are.
func (in *input) pending() []byte {
	if len(in.queue) == 0 {
		return nil
	}
	in.feeding = true
	return in.queue[0].data
}

// advance says that the process has got n bytes of what pending returned, which
// is not used any more.
func (in *input) advance(n int) {
	in.feeding = false
	in.carried += uint64(n)
	p := &in.queue[0]
	p.data = p.data[n:]
	switch {
	case in.closed:
		in.drop()
	case len(p.data) == 0:
		in.written += uint64(n)
		p.release()
		in.queue[0] = stdinPiece{}
		in.queue = in.queue[1:]
	default:
		in.written += uint64(n)
	}
}

// drop gives up what the process does not get, but for what it is being fed.
func (in *input) drop() {
	if in.feeding {
		return
	}
	for _, p := range in.queue {
		p.release()
	}
	in.queue = nil
}

func (p stdinPiece) release() {
	if p.free != nil {
		p.free.Free()
	}
}

// finished reports that the process has all that there will ever be.
func (in *input) finished() bool { return in.closed || in.eof && len(in.queue) == 0 }

// discard says that the process takes no more.
func (in *input) discard() {
	in.closed = true
	in.written = in.end
	in.drop()
}

// due returns what the owner has to be told of stdin, or nil: after a quarter
// of the window, and once all is taken.
func (in *input) due(r *reader) *guestv1.FlowControl {
	if !in.connected {
		return nil
	}
	limit := in.limit()
	if limit-r.told < stdinWindow/4 && (r.toldEOF || !in.eof) {
		return nil
	}
	r.told, r.toldEOF = limit, in.eof
	return &guestv1.FlowControl{
		Stream:         guestv1.Stream_STREAM_STDIN,
		ConsumedOffset: in.end,
		Window:         limit - in.end,
	}
}
