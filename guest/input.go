package guest

import (
	"io"
	"os"
	"sync"
	"syscall"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const (
	// inputBuffer is how much of stdin is kept until the agent has taken it, to
	// be sent again after a lost connection.
	inputBuffer = 1 << 20

	// inputChunk is the most that one message carries.
	inputChunk = 64 << 10

	// inputChunks bounds the writes that are kept, however short they are.
	inputChunks = 4 << 10
)

// input is this side's end of a session's stdin: what was written and not yet
// taken by the agent. The fields are guarded by the session's mutex, which is
// cond's.
type input struct {
	wake func() // tells the session's sender that there may be something to send
	cond sync.Cond

	chunks  [][]byte // from acked to end; their bytes never change
	acked   uint64   // the agent has taken what is before
	sent    uint64   // sent on this connection
	end     uint64   // written
	limit   uint64   // the agent takes up to this offset
	eof     bool     // there is nothing after end
	sentEOF bool     // on this connection
	ackEOF  bool     // the agent has taken the end too
	err     error    // why nothing more is taken
}

func newInput(mu *sync.Mutex) *input {
	return &input{cond: sync.Cond{L: mu}, wake: func() {}}
}

// opened takes over what the agent already has.
func (in *input) opened(m *guestv1.Opened) error {
	if err := in.taken(m.StdinOffset, m.StdinWindow); err != nil {
		return err
	}
	if m.StdinEof && !in.eof {
		return protocolError("the agent has an end of stdin that was not sent")
	}
	in.sent, in.sentEOF, in.ackEOF = in.acked, m.StdinEof, m.StdinEof
	return nil
}

// taken notes that the agent has all before offset and takes window more.
func (in *input) taken(offset, window uint64) error {
	if offset < in.acked || offset > in.end {
		return protocolError("stdin taken up to offset %d, want %d to %d", offset, in.acked, in.end)
	}
	if offset+window < offset {
		return protocolError("stdin window of %d bytes", window)
	}
	for n := offset - in.acked; n > 0; {
		head := in.chunks[0]
		if uint64(len(head)) > n {
			in.chunks[0] = head[n:]
			break
		}
		n -= uint64(len(head))
		in.chunks[0] = nil
		in.chunks = in.chunks[1:]
	}
	in.acked = offset
	in.sent = max(in.sent, offset)
	in.limit = max(in.limit, offset+window)
	in.cond.Broadcast()
	return nil
}

// joined takes over the offset of a session that others have written to before.
// It is called once, before opened. What was written here comes after that.
func (in *input) joined(m *guestv1.Opened) {
	in.acked, in.end = m.StdinOffset, m.StdinOffset+in.end
	if m.StdinEof {
		in.eof = true
		in.finish(errPipe)
		in.end = in.acked
	}
}

// message returns the next piece to send, or nil.
func (in *input) message() *guestv1.Input {
	var data []byte
	skip := in.sent - in.acked
	for _, c := range in.chunks {
		if n := uint64(len(c)); skip >= n {
			skip -= n
			continue
		}
		if room := in.limit - in.sent; in.limit > in.sent {
			data = c[skip:]
			data = data[:min(uint64(len(data)), room, inputChunk)]
		}
		break
	}
	m := &guestv1.Input{Offset: in.sent, Data: data, Eof: in.eof && in.sent+uint64(len(data)) == in.end}
	if len(data) == 0 && (!m.Eof || in.sentEOF) {
		return nil
	}
	in.sent += uint64(len(data))
	in.sentEOF = in.sentEOF || m.Eof
	return m
}

// write queues a copy of p, and waits while the buffer is full.
func (in *input) write(p []byte) (int, error) {
	in.cond.L.Lock()
	defer in.cond.L.Unlock()
	written := 0
	for {
		switch {
		case in.err != nil:
			return written, in.err
		case in.eof:
			return written, os.ErrClosed
		case len(p) == 0:
			return written, nil
		}
		room := inputBuffer - int(in.end-in.acked)
		if room <= 0 || len(in.chunks) >= inputChunks {
			in.cond.Wait()
			continue
		}
		n := min(len(p), room, inputChunk)
		in.queue(p[:n])
		in.end += uint64(n)
		written += n
		p = p[n:]
		in.wake()
	}
}

// queue appends a copy of p: to the last chunk if nothing of that was sent and
// both are small.
func (in *input) queue(p []byte) {
	if last := len(in.chunks) - 1; last >= 0 {
		c := in.chunks[last]
		if in.sent <= in.end-uint64(len(c)) && len(c)+len(p) <= coalesceBelow {
			in.chunks[last] = append(c, p...)
			return
		}
	}
	in.chunks = append(in.chunks, append([]byte(nil), p...))
}

// close ends stdin after what was written.
func (in *input) close() error {
	in.cond.L.Lock()
	defer in.cond.L.Unlock()
	if in.eof {
		return os.ErrClosed
	}
	in.eof = true
	in.cond.Broadcast()
	in.wake()
	return nil
}

// finish refuses all further writes.
func (in *input) finish(err error) {
	if in.err == nil {
		in.err = err
	}
	in.chunks = nil
	in.cond.Broadcast()
}

// errPipe is what a writer to stdin gets after the session has ended.
var errPipe error = syscall.EPIPE

// inputWriter is the writing end that StdinPipe returns.
type inputWriter struct{ in *input }

var _ io.WriteCloser = inputWriter{}

// Write implements io.Writer. It returns as soon as the bytes are kept to be
// sent.
func (w inputWriter) Write(p []byte) (int, error) { return w.in.write(p) }

// Close ends the command's stdin. A second Close returns os.ErrClosed.
func (w inputWriter) Close() error { return w.in.close() }
