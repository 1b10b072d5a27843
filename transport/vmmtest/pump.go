package vmmtest

import (
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A pump carries the bytes of one direction of a link.
type pump struct {
	link     *link
	faults   func(*mode) *Flow // which of the two flows of the mode is this
	src, dst stream
	total    *atomic.Int64 // the VMM's counter for this direction

	passed   atomic.Int64
	endOnce  sync.Once
	ended    atomic.Bool // EndFlow has happened
	rng      *rand.Rand
	nextByte time.Time // when the Rate lets more through
}

// run passes bytes on until the source ends or the link does.
func (p *pump) run() {
	buf := make([]byte, minRing) // idle connections are many, busy ones few
	for {
		if p.wait() == nil {
			return
		}
		n, err := p.src.Read(buf)
		if !p.deliver(buf[:n]) {
			return
		}
		if err != nil {
			p.finish(err)
			return
		}
		if n == len(buf) && n < chunkSize {
			buf = make([]byte, chunkSize)
		}
	}
}

// finish passes on how the source ended.
func (p *pump) finish(err error) {
	m := p.wait()
	switch {
	case m == nil:
	case err != io.EOF:
		p.link.reset()
	case p.dropping(p.faults(m)): // the receiver does not learn of it
	case m.NoHalfClose && p.link.fromHost(p):
		p.link.close()
	case m.NoHalfClose:
		p.hangUp()
	default:
		if !p.ended.Load() {
			p.dst.CloseWrite()
		}
		p.link.halfDone()
		p.hangUp()
	}
}

// hangUp closes the link once the source has been closed altogether.
func (p *pump) hangUp() {
	if p.src.waitHangup() {
		p.link.close()
	}
}

// deliver passes b on with all that is to happen to it. It returns false when
// the flow is over.
func (p *pump) deliver(b []byte) bool {
	for len(b) > 0 {
		m := p.wait()
		if m == nil {
			return false
		}
		f := p.faults(m)
		n := p.size(f, len(b))
		if !p.delay(f) {
			return false
		}
		at := f.At - p.passed.Load()
		if f.Fault == FlipBit && 0 <= at && at < int64(n) {
			b[at] ^= 1 << (f.At % 8)
		}
		if !p.ended.Load() && !p.dropping(f) {
			k, err := p.dst.Write(b[:n])
			p.total.Add(int64(k))
			if err != nil && !p.ended.Load() {
				// The receiver does not want any more, so the sender cannot send
				// any more.
				p.src.CloseRead()
				p.link.halfDone()
				return false
			}
		}
		p.passed.Add(int64(n))
		if !p.limit(f, n) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (p *pump) dropping(f *Flow) bool { return f.Fault == Drop && p.passed.Load() >= f.At }

// size says how many of n bytes go next.
func (p *pump) size(f *Flow, n int) int {
	if f.Slice > 0 {
		n = min(n, 1+p.rng.IntN(f.Slice))
	}
	if f.Rate > 0 {
		n = min(n, int(max(1, f.Rate/50)))
	}
	if at := f.At - p.passed.Load(); f.Fault != NoFault && f.Fault != FlipBit && at > 0 {
		n = int(min(int64(n), at))
	}
	return n
}

// delay waits for as long as the latency is.
func (p *pump) delay(f *Flow) bool {
	t := f.Latency
	if f.Jitter > 0 {
		t += time.Duration(p.rng.Int64N(2*int64(f.Jitter)+1)) - f.Jitter
	}
	return t <= 0 || p.link.sleep(t)
}

// limit waits until n more bytes may have passed.
func (p *pump) limit(f *Flow, n int) bool {
	if f.Rate <= 0 {
		return true
	}
	now := time.Now()
	if p.nextByte.Before(now) {
		p.nextByte = now
	}
	p.nextByte = p.nextByte.Add(time.Duration(float64(n) / float64(f.Rate) * float64(time.Second)))
	return p.link.sleep(p.nextByte.Sub(now))
}

// wait waits while the guest is paused or the flow stalls, and returns the mode
// that is in force, or nil if the link is over.
func (p *pump) wait() *mode {
	for {
		m := p.link.vmm.mode.Load()
		p.strike(m)
		f := p.faults(m)
		stalled := f.Fault == Stall && p.passed.Load() >= f.At
		select {
		case <-p.link.done:
			return nil
		default:
		}
		if !m.paused && !stalled {
			return m
		}
		select {
		case <-p.link.done:
			return nil
		case <-m.changed:
		}
	}
}

// strike lets the fault happen that is due, if it is one that ends something.
// It may be called by any goroutine.
func (p *pump) strike(m *mode) {
	f := p.faults(m)
	if m.paused || p.passed.Load() < f.At {
		return
	}
	switch f.Fault {
	case ResetConn:
		p.link.reset()
	case CloseConn:
		p.link.close()
	case EndFlow:
		p.endOnce.Do(func() {
			p.ended.Store(true)
			p.dst.CloseWrite()
		})
	}
}
