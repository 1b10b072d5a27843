package vmmtest

import (
	"io"
	"os"
	"sync"
	"time"
)

// minRing is the smallest ring that is allocated; rings double from there.
const minRing = 4 << 10

// A buffer carries bytes in one direction within the process. It has one
// reading and one writing side, each of which may be used concurrently.
type buffer struct {
	max int // capacity in bytes

	mu                 sync.Mutex
	readable, writable sync.Cond

	ring     []byte
	start, n int // the first byte's index, and how many there are

	end  error // what the reader gets when the ring is empty; nil: more may come
	rerr error // what the reader gets at once
	werr error // what the writer gets at once

	rdeadline, wdeadline deadline
}

func newBuffer(max int) *buffer {
	b := &buffer{max: max}
	b.readable.L = &b.mu
	b.writable.L = &b.mu
	return b
}

// read reads what is there, and waits if there is nothing.
func (b *buffer) read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.rerr != nil:
			return 0, b.rerr
		case b.rdeadline.expired:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case b.n > 0:
			n := b.take(p)
			b.writable.Broadcast()
			return n, nil
		case b.end != nil:
			return 0, b.end
		}
		b.readable.Wait()
	}
}

// write writes all of p, waiting for room.
func (b *buffer) write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	written := 0
	for {
		switch {
		case b.werr != nil:
			return written, b.werr
		case b.wdeadline.expired:
			return written, os.ErrDeadlineExceeded
		case written == len(p):
			return written, nil
		case b.n < b.max:
			written += b.put(p[written:])
			b.readable.Broadcast()
			continue
		}
		b.writable.Wait()
	}
}

// take moves bytes out of the ring.
func (b *buffer) take(p []byte) int {
	n := 0
	for b.n > 0 && n < len(p) {
		k := copy(p[n:], b.ring[b.start:min(b.start+b.n, len(b.ring))])
		b.start = (b.start + k) % len(b.ring)
		b.n -= k
		n += k
	}
	return n
}

// put moves bytes into the ring and lets it grow up to b.max.
func (b *buffer) put(p []byte) int {
	if need := min(b.n+len(p), b.max); need > len(b.ring) {
		size := max(len(b.ring), minRing)
		for size < need {
			size *= 2
		}
		grown := make([]byte, min(size, b.max))
		have := b.take(grown)
		b.ring, b.start, b.n = grown, 0, have
	}
	n := 0
	for b.n < len(b.ring) && n < len(p) {
		i := (b.start + b.n) % len(b.ring)
		room := len(b.ring) - i
		if i < b.start {
			room = b.start - i
		}
		k := copy(b.ring[i:i+room], p[n:])
		b.n += k
		n += k
	}
	return n
}

// closeWrite ends the data: the reader gets what is there and then io.EOF, the
// writer werr.
func (b *buffer) closeWrite(werr error) {
	b.update(func() {
		if b.end == nil {
			b.end = io.EOF
		}
		b.werr = werr
	})
}

// closeRead drops the data: the reader gets rerr, the writer werr unless it has
// an error already.
func (b *buffer) closeRead(rerr, werr error) {
	b.update(func() {
		b.rerr = rerr
		b.start, b.n = 0, 0
		if b.werr == nil {
			b.werr = werr
		}
	})
}

// reset makes err the end of the data, also if it had ended well but the reader
// is not there yet.
func (b *buffer) reset(err error) {
	b.update(func() {
		b.end = err
		if b.werr == nil {
			b.werr = err
		}
	})
}

func (b *buffer) update(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	b.readable.Broadcast()
	b.writable.Broadcast()
}

// A deadline is a moment after which calls fail, also those that are waiting.
type deadline struct {
	expired bool
	timer   *time.Timer
}

func (b *buffer) setReadDeadline(t time.Time)  { b.setDeadline(&b.rdeadline, &b.readable, t) }
func (b *buffer) setWriteDeadline(t time.Time) { b.setDeadline(&b.wdeadline, &b.writable, t) }

func (b *buffer) setDeadline(d *deadline, waiting *sync.Cond, t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.expired = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.expired = true
		waiting.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if d.timer == timer { // else there is a newer deadline
			d.expired = true
			waiting.Broadcast()
		}
	})
	d.timer = timer
}
