package sock

import (
	"net"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

const (
	readBuffer     = wire.MaxPayload // of a class of buffers
	readBufferIdle = 4 << 10
	readAhead      = 4 << 10 // beyond a large frame: most often the next is large too
	// largeFrame is from when on a frame that is not complete yet is read into
	// memory of its own, which goes to its consumer as it is.
	largeFrame = 16 << 10
)

// A Reader splits what a connection brings into frames. Only one goroutine uses it
// at a time.
type Reader struct {
	nc   net.Conn
	sock *Socket // nil: use nc
	buf  *[]byte // nil: none needed now
	r, w int     // what is in buf and not parsed yet

	// The large frame being read, if big is not nil.
	big    *[]byte
	bigHdr wire.Header
	bigN   int // bytes of it that are there

	last int // bytes of the last read
}

// NewReader returns a Reader of nc, through s if that is not nil.
func NewReader(nc net.Conn, s *Socket) *Reader { return &Reader{nc: nc, sock: s} }

// Feed gives r what was read of the connection before, at most [SniffSize] bytes.
func (r *Reader) Feed(b []byte) {
	r.acquire()
	r.w += copy((*r.buf)[r.w:], b)
}

// SniffSize is how much may be read of a connection before a Reader is made.
const SniffSize = readBufferIdle

// Buffered returns what was read and not taken yet. It is good until the next Fill.
func (r *Reader) Buffered() []byte {
	if r.buf == nil {
		return nil
	}
	return (*r.buf)[r.r:r.w]
}

// Discard takes n bytes of what Buffered returns.
func (r *Reader) Discard(n int) { r.r += n }

// acquire makes sure that there is a buffer.
func (r *Reader) acquire() {
	if r.buf == nil {
		n := readBuffer
		if r.sock == nil && r.last < readBufferIdle/2 {
			n = readBufferIdle // it is held while nothing comes
		}
		r.buf = buf.Pool.Get(n)
	}
}

// release gives the buffer back if nothing is in it.
func (r *Reader) release() {
	if r.buf != nil && r.r == r.w {
		buf.Pool.Put(r.buf)
		r.buf, r.r, r.w = nil, 0, 0
	}
}

// space returns the free part of the buffer, never empty.
func (r *Reader) space() []byte {
	if r.r == r.w {
		r.r, r.w = 0, 0
	} else if r.w == len(*r.buf) || r.r > 0 && len(*r.buf)-r.w < readAhead {
		r.w = copy(*r.buf, (*r.buf)[r.r:r.w])
		r.r = 0
	}
	return (*r.buf)[r.w:]
}

// Fill reads once, and waits until there is something to read.
func (r *Reader) Fill(spin time.Duration) error {
	var first []byte
	if r.big != nil {
		first = (*r.big)[r.bigN:]
	}
	var n int
	var err error
	switch {
	case r.sock != nil:
		n, err = r.sock.fill(r, first, spin)
	case first != nil:
		n, err = r.nc.Read(first)
	default:
		if r.sock == nil && r.last < readBufferIdle/2 && r.buf != nil && len(*r.buf) > readBufferIdle {
			r.release()
		}
		r.acquire()
		n, err = r.nc.Read(r.space())
	}
	r.last = n
	k := min(n, len(first))
	r.bigN += k
	r.w += n - k
	if n > 0 {
		return nil
	}
	return err
}

// Next returns the next frame, if it is there as a whole. If own is not nil it is
// the memory that p lies in, not always at its beginning, and the caller's now;
// otherwise p is good until the next Fill.
func (r *Reader) Next() (h wire.Header, p []byte, own *[]byte, ok bool, err error) {
	if r.big != nil {
		if r.bigN < len(*r.big) {
			return h, nil, nil, false, nil
		}
		own, r.big = r.big, nil
		return r.bigHdr, *own, own, true, nil
	}
	have := r.w - r.r
	if have < wire.HeaderLen {
		return h, nil, nil, false, nil
	}
	b := (*r.buf)[r.r:r.w]
	h = wire.ParseHeader(b)
	if err := h.Check(); err != nil {
		return h, nil, nil, false, err
	}
	n := int(h.Length)
	if have >= wire.HeaderLen+n {
		r.r += wire.HeaderLen + n
		if r.r == r.w && n > len(*r.buf)/2 {
			own, r.buf, r.r, r.w = r.buf, nil, 0, 0
		}
		return h, b[wire.HeaderLen : wire.HeaderLen+n], own, true, nil
	}
	if n >= largeFrame || wire.HeaderLen+n > len(*r.buf) {
		r.big = buf.Pool.Get(n)
		r.bigHdr = h
		r.bigN = copy(*r.big, b[wire.HeaderLen:])
		r.r, r.w = 0, 0
	}
	return h, nil, nil, false, nil
}

// Left returns how many times as much there is in the buffer as Next has returned of
// it.
func (r *Reader) Left() int { return (r.w - r.r) / max(r.r, 1) }

// handOver gives the buffer away, for what Next has returned of it, and goes on with
// another.
func (r *Reader) handOver() *[]byte {
	b, at, end := r.buf, r.r, r.w
	r.buf, r.r, r.w = nil, 0, 0
	if at < end {
		r.buf = buf.Pool.Get(readBuffer)
		r.w = copy(*r.buf, (*b)[at:end])
	}
	return b
}

// Split returns a reader that goes on after the frames that r has returned, while
// the memory of the last of them stays with r.
func (r *Reader) Split() *Reader {
	n := *r
	*r = Reader{nc: r.nc, sock: r.sock, buf: n.handOver()}
	return &n
}

// Close gives back all memory.
func (r *Reader) Close() {
	if r.buf != nil {
		buf.Pool.Put(r.buf)
		r.buf = nil
	}
	if r.big != nil {
		buf.Pool.Put(r.big)
		r.big = nil
	}
}
