package bulk

import (
	"errors"
	"io"
	"net"
	"sync"
)

// MaxSegment is how many bytes one segment of a tunnel carries at most: a vsock's
// packet, and more than the largest datagram.
const MaxSegment = 64 << 10

// TunnelEnd is the field of a segment that ends its direction.
const TunnelEnd = 2

// SmallSegment is the buffer of a connection that says little: one that fills it
// gets a large one.
const SmallSegment = 2 << 10

var segments = sync.Pool{New: func() any { return new([MaxSegment]byte) }}

// GetSegment returns a buffer to be given back with PutSegment.
func GetSegment() *[MaxSegment]byte { return segments.Get().(*[MaxSegment]byte) }

// PutSegment takes a buffer back. nil is allowed.
func PutSegment(b *[MaxSegment]byte) {
	if b != nil {
		segments.Put(b)
	}
}

// TunnelReader makes segments of what it reads, until the end, which is one too.
// It is used by one goroutine at a time.
type TunnelReader struct {
	r         io.Reader
	datagrams bool
	frame     Frame
	small     []byte
	large     *[MaxSegment]byte
}

// NewTunnelReader reads from r. If datagrams is set each read is a segment of its
// own, even an empty one.
func NewTunnelReader(r io.Reader, datagrams bool) *TunnelReader {
	t := &TunnelReader{r: r, datagrams: datagrams, frame: Frame{Layout: Tunnel}}
	if !datagrams {
		t.small = make([]byte, SmallSegment)
	}
	return t
}

// Next returns the next segment, which is good until the next call, or nil if
// there is none to send; beside it what the read ended with: io.EOF is the end,
// of which the segment tells.
func (t *TunnelReader) Next() (*Frame, error) {
	buf := t.buffer()
	n, err := t.r.Read(buf)
	if n < len(t.small) && !t.datagrams {
		t.shrink(buf, n)
	}
	if t.datagrams && err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		// What one datagram met, such as nobody listening, is no end.
		return nil, nil
	}
	if n == 0 && err == nil && !t.datagrams {
		return nil, nil
	}
	if n == 0 && err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	t.frame.Data = t.data(n)
	t.frame.Varints[TunnelEnd] = Bool(errors.Is(err, io.EOF))
	return &t.frame, err
}

// buffer returns where to read to: the small buffer, unless the last read filled
// it.
func (t *TunnelReader) buffer() []byte {
	if t.large == nil && (t.datagrams || len(t.frame.Data) == len(t.small)) {
		t.large = GetSegment()
	}
	if t.large != nil {
		return t.large[:]
	}
	return t.small
}

// shrink gives the large buffer back once a read would have fit the small one.
func (t *TunnelReader) shrink(buf []byte, n int) {
	if t.large != nil {
		copy(t.small, buf[:n])
		t.Free()
	}
}

func (t *TunnelReader) data(n int) []byte {
	if t.large != nil {
		return t.large[:n]
	}
	return t.small[:n]
}

// Free gives the buffer back. A segment of before must not be used after it.
func (t *TunnelReader) Free() {
	PutSegment(t.large)
	t.large = nil
}
