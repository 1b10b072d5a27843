package process

import guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"

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
	queue     [][]byte
}

// limit is the first byte that the agent does not take yet.
func (in *input) limit() uint64 { return in.written + stdinWindow }

// take appends data, the bytes from off on, but for what it has already. It
// keeps data.
func (in *input) take(off uint64, data []byte, eof bool) *fault {
	last := off + uint64(len(data))
	switch {
	case !in.connected && len(data) == 0:
		return nil
	case !in.connected:
		return noStdin()
	case last < off || off > in.end:
		return stdinGap(off, in.end)
	case in.eof && (last > in.end || eof && last < in.end):
		return stdinAfterEnd(last, in.end)
	case eof && last < in.end:
		return stdinAfterEnd(in.end, last)
	case last > in.limit() && !in.closed:
		return stdinBeyond(last, in.limit())
	}
	if in.end < last {
		data = data[in.end-off:]
		in.end = last
		in.add(data)
	}
	in.eof = in.eof || eof
	return nil
}

func (in *input) add(data []byte) {
	if in.closed {
		in.written = in.end
		return
	}
	if n := len(in.queue); len(data) <= smallInput {
		if n > 0 && cap(in.queue[n-1])-len(in.queue[n-1]) >= len(data) {
			in.queue[n-1] = append(in.queue[n-1], data...)
			return
		}
		data = append(make([]byte, 0, smallChunk), data...)
	} else {
		data = data[:len(data):len(data)]
	}
	in.queue = append(in.queue, data)
}

// pending returns the bytes that the process gets next, empty if there are
// none. They are valid until advance; bytes may be appended behind them.
func (in *input) pending() []byte {
	if len(in.queue) == 0 {
		return nil
	}
	return in.queue[0]
}

// advance says that the process has got n bytes of what pending returned.
func (in *input) advance(n int) {
	in.carried += uint64(n)
	if in.closed {
		return
	}
	in.written += uint64(n)
	if in.queue[0] = in.queue[0][n:]; len(in.queue[0]) == 0 {
		in.queue[0] = nil
		in.queue = in.queue[1:]
	}
}

// finished reports that the process has all that there will ever be.
func (in *input) finished() bool { return in.closed || in.eof && len(in.queue) == 0 }

// discard says that the process takes no more.
func (in *input) discard() {
	in.closed = true
	in.queue = nil
	in.written = in.end
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
