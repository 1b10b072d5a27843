package sock

import (
	"encoding/binary"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

const (
	// maxPending is how much may wait for the socket before senders of messages wait
	// too.
	maxPending = 256 << 10
	// MaxControlPending is how much may wait for the socket because the peer asked
	// for it, in answers that cannot be held back.
	MaxControlPending = 1 << 20
	// fullBatch is worth a write of its own: a vsock packet.
	fullBatch = 64 << 10
	// RefFrom is how long a payload must be to be worth a [Payload].
	RefFrom = 12 << 10
	// maxRounds is how many batches one sender writes for others.
	maxRounds = 8
)

// A Writer sends frames in the order in which they were appended. It has no goroutine
// of its own: the goroutine that appends a frame also writes it, with all that others
// have appended meanwhile, unless another is writing already and takes it along.
//
// All methods may be called concurrently. Its mutex is below the owner's: the owner
// may hold its own when it calls Append, AppendControl, AwaitRoom, Kick and Withdraw,
// and none when it calls Run, Flush and Close.
type Writer struct {
	nc    net.Conn
	sock  *Socket // nil: use nc
	owner Owner

	mu     sync.Mutex
	state  state
	pieces []piece // what waits
	bytes  int     // of it
	err    error   // why nothing can be sent any more
	room   bool    // a sender waits until less is pending
	// control counts the bytes that wait because the peer asked for them.
	control int

	// The batch that is being written, of the goroutine that writes.
	batch batch
	sent  []*Payload // likewise: of a batch
	// asleep says that the goroutine that writes sleeps until the socket has room, and
	// may be woken by a write deadline.
	asleep    bool
	onSleepFn func() // w.onSleep, made once
	kicked    bool   // Kick was called since the batch was begun

	// The connection has ended, and the goroutine that writes sends what waits, until
	// dieAt, and then closes it. Guarded by mu.
	closing bool
	dieAt   time.Time
}

// An Owner is the connection that a Writer writes for. The Writer calls it without
// holding its own mutex.
type Owner interface {
	// Busy reports whether several calls are in flight, so that others are likely
	// to append frames soon.
	Busy() bool
	// WriterSleeps is called before a write sleeps. The peer may be waiting for this
	// side to read, so somebody must read.
	WriterSleeps()
	// Sent sets Done of payloads that the Writer does not use any more, and wakes
	// their senders. The slice is good until it returns.
	Sent([]*Payload)
	// HasRoom is called when less is pending, once after AwaitRoom has reported true.
	HasRoom()
	// WriteFailed is called when the connection cannot be written to any more.
	WriteFailed(error)
}

// state says who writes.
type state uint8

const (
	idle      state = iota
	scheduled       // a goroutine was started to write, and has not begun
	writing
)

// piece is a part of what is to be written: frames that were copied together, or a
// payload that is sent by reference.
type piece struct {
	b   []byte
	own *[]byte // the pooled memory of b
	ref *Payload
}

// A Payload is sent from its sender's memory, which must not change until Done is set.
type Payload struct {
	B     []byte
	Owner any  // for Owner.Sent
	Done  bool // guarded by the owner's mutex
}

// When says when a frame is written, and by which goroutine.
type When uint8

const (
	Now   When = iota // by the caller, or by the goroutine that is writing
	Yield             // the same, but others get the chance to append theirs first
	Soon              // the caller has more: by another goroutine, or with the next
	Later             // the caller will call Flush
)

// A Frame is a frame to append.
type Frame struct {
	Header wire.Header // its Length is set by Append
	Head   []byte      // copied, with its length before it if wire.FlagHead is set
	Msg    []byte      // copied
	More   []byte      // copied, after Msg
	Ref    *Payload    // not copied, after Msg
}

// NewWriter returns a Writer to nc, through s if that is not nil.
func NewWriter(nc net.Conn, s *Socket, owner Owner) *Writer {
	w := &Writer{nc: nc, sock: s, owner: owner}
	w.onSleepFn = w.onSleep
	return w
}

// ByReference reports whether a payload of n bytes is worth a Payload. Only the
// writes of a socket can be interrupted for the sake of its sender.
func (w *Writer) ByReference(n int) bool { return w.sock != nil && n >= RefFrom }

// length returns the length of the frame's payload.
func (f *Frame) length() int {
	n := len(f.Msg) + len(f.More)
	if f.Header.Flags&wire.FlagHead != 0 {
		n += uvarintLen(len(f.Head)) + len(f.Head)
	}
	if f.Ref != nil {
		n += len(f.Ref.B)
	}
	return n
}

func uvarintLen(n int) int {
	k := 1
	for ; n >= 0x80; n >>= 7 {
		k++
	}
	return k
}

// AppendTo appends the frame, but for the bytes of Ref, to b.
func (f *Frame) AppendTo(b []byte) []byte {
	f.Header.Length = uint32(f.length())
	b = wire.AppendHeader(b, f.Header)
	if f.Header.Flags&wire.FlagHead != 0 {
		b = binary.AppendUvarint(b, uint64(len(f.Head)))
		b = append(b, f.Head...)
	}
	b = append(b, f.Msg...)
	return append(b, f.More...)
}

// Append adds f to what is to be written. It reports whether the caller must call Run.
// The owner's mutex is held if f has a Ref.
func (w *Writer) Append(f *Frame, when When) (run bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		if f.Ref != nil {
			f.Ref.Done = true
		}
		return false
	}
	whole := wire.HeaderLen + f.length()
	n := whole
	if f.Ref != nil {
		n -= len(f.Ref.B)
	}
	last := w.grow(n)
	last.b = f.AppendTo(last.b)
	if f.Ref != nil {
		w.pieces = append(w.pieces, piece{b: f.Ref.B, ref: f.Ref})
	}
	w.bytes += whole
	return w.start(when)
}

// Full reports whether so much is pending that senders of messages should wait.
func (w *Writer) Full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.full()
}

// AwaitRoom is Full, and has the owner told when it is no longer so.
func (w *Writer) AwaitRoom() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	full := w.full()
	w.room = w.room || full
	return full
}

// Waiting reports whether a write sleeps until the socket has room, and how many
// payloads wait behind its batch.
func (w *Writer) Waiting() (asleep bool, payloads int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.pieces {
		if w.pieces[i].ref != nil {
			payloads++
		}
	}
	return w.asleep, payloads
}

// full is Full with mu held.
func (w *Writer) full() bool { return w.bytes > maxPending && w.err == nil }

// grow returns the last piece, with room for n more bytes.
func (w *Writer) grow(n int) *piece {
	if k := len(w.pieces); k > 0 {
		if p := &w.pieces[k-1]; p.ref == nil && cap(p.b)-len(p.b) >= n {
			return p
		}
	}
	if len(w.pieces) > 0 || w.state != idle {
		n = max(n, fullBatch) // more will come before this is written
	}
	own := buf.Pool.Get(n)
	w.pieces = append(w.pieces, piece{b: (*own)[:0:cap(*own)], own: own})
	return &w.pieces[len(w.pieces)-1]
}

// Greet begins with b, which it copies. No other goroutine uses w yet.
func (w *Writer) Greet(b []byte) {
	p := w.grow(len(b))
	p.b = append(p.b, b...)
	w.bytes = len(p.b)
}

// AppendControl appends with fn a frame that the peer's own frames have called for, to be
// written later. It reports false if the peer makes more of them than it reads.
func (w *Writer) AppendControl(fn func(b []byte) []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return true
	}
	last := w.grow(wire.HeaderLen + 64)
	before := len(last.b)
	last.b = fn(last.b)
	n := len(last.b) - before
	w.bytes += n
	w.control += n
	return w.control <= MaxControlPending
}

// start decides, after an append, whether the caller has to call Run. mu is held.
func (w *Writer) start(h When) bool {
	if w.state == writing || w.err != nil || w.bytes == 0 {
		return false
	}
	if h == Later {
		return false
	}
	if w.sock == nil || h == Soon && w.bytes < fullBatch {
		if w.state == idle {
			w.state = scheduled
			go w.writeSoon()
		}
		return false
	}
	w.state = writing
	return true
}

// writeSoon writes what waits and what comes meanwhile, if no other goroutine has begun
// to.
func (w *Writer) writeSoon() {
	if w.sock != nil {
		last := -1
		for range 16 {
			w.mu.Lock()
			n, mine := w.bytes, w.state == scheduled
			w.mu.Unlock()
			if !mine {
				return
			}
			if n == last || n >= fullBatch {
				break
			}
			last = n
			runtime.Gosched()
		}
	}
	w.mu.Lock()
	if w.state != scheduled {
		w.mu.Unlock()
		return
	}
	w.state = writing
	w.mu.Unlock()
	w.run(true, -1)
}

// Flush writes what waits, without sleeping.
func (w *Writer) Flush() {
	w.mu.Lock()
	run := w.start(Now)
	w.mu.Unlock()
	if run {
		w.Run(false)
	}
}

// Run writes what waits, after Append has said so: a few batches, and then a new
// goroutine goes on. Where the socket is full it sleeps, if it may, or else leaves the
// rest to a new goroutine.
func (w *Writer) Run(maySleep bool) { w.run(maySleep, maxRounds) }

// run writes up to so many batches, or to the end if rounds is negative.
func (w *Writer) run(maySleep bool, rounds int) {
	for round := 0; ; round++ {
		if round > 0 && w.owner.Busy() {
			runtime.Gosched() // others are about to append, as it seems
		}
		w.mu.Lock()
		if !w.take() {
			closing := w.closing
			if !closing {
				w.state = idle
			}
			w.mu.Unlock()
			if closing {
				_ = w.nc.Close()
			}
			return
		}
		w.mu.Unlock()
		if round == rounds {
			go w.resume()
			return
		}
		if !w.writeBatch(maySleep) {
			return
		}
	}
}
