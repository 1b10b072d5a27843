package sock

import (
	"errors"
	"os"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
)

// batch is what is written together.
type batch struct {
	pieces []piece
	all    [][]byte // their bytes
	bufs   [][]byte // the part of all that is not written yet
}

// resume goes on with a batch that was begun.
func (w *Writer) resume() {
	if w.writeBatch(true) {
		w.run(true, -1)
	}
}

// take makes what waits the batch. mu is held.
func (w *Writer) take() bool {
	if w.bytes == 0 || w.err != nil && !w.closing {
		return false
	}
	b := &w.batch
	b.pieces, w.pieces = w.pieces, b.pieces[:0]
	w.bytes, w.control = 0, 0
	b.all = b.all[:0]
	for _, p := range b.pieces {
		b.all = append(b.all, p.b)
	}
	b.bufs = b.all
	w.kicked = false
	return true
}

// writeBatch writes the batch. It reports false if the role of writing is no
// longer the caller's.
func (w *Writer) writeBatch(maySleep bool) bool {
	b := &w.batch
	var err error
	if w.sock == nil {
		for _, p := range b.bufs {
			if _, err = w.nc.Write(p); err != nil {
				break
			}
		}
	} else {
		for len(b.bufs) > 0 {
			var n int
			var again bool
			n, again, err = w.sock.writev(b.bufs, maySleep, w.onSleepFn)
			w.awake()
			b.advance(n)
			if errors.Is(err, os.ErrDeadlineExceeded) && w.mayGoOn() {
				// Somebody whose payload is in the batch cannot wait any longer.
				w.detach()
				err = nil
				if len(b.bufs) > 0 {
					go w.resume()
					return false
				}
			}
			if err != nil {
				break
			}
			if again && len(b.bufs) > 0 {
				w.owner.WriterSleeps()
				go w.resume()
				return false
			}
		}
	}
	w.finish(err)
	return true
}

// mayGoOn reports whether to go on after a write deadline has passed, and sets the
// next: none, or the one by which the connection closes.
func (w *Writer) mayGoOn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing && !time.Now().Before(w.dieAt) {
		return false
	}
	_ = w.nc.SetWriteDeadline(w.dieAt)
	return true
}

// advance drops n written bytes.
func (b *batch) advance(n int) {
	for len(b.bufs) > 0 && n >= len(b.bufs[0]) {
		n -= len(b.bufs[0])
		b.bufs = b.bufs[1:]
	}
	if n > 0 {
		b.bufs[0] = b.bufs[0][n:]
	}
}

// onSleep is called before the goroutine that writes sleeps.
func (w *Writer) onSleep() {
	w.mu.Lock()
	w.asleep = true
	if w.kicked {
		_ = w.nc.SetWriteDeadline(time.Unix(1, 0))
	}
	w.mu.Unlock()
	w.owner.WriterSleeps()
}

func (w *Writer) awake() {
	w.mu.Lock()
	w.asleep = false
	w.mu.Unlock()
}

// Kick makes a goroutine that sleeps with a batch copy the payloads in it, so that
// their senders need not wait until the socket has room.
func (w *Writer) Kick() {
	w.mu.Lock()
	if w.state == writing {
		w.kicked = true
		if w.asleep {
			_ = w.nc.SetWriteDeadline(time.Unix(1, 0))
		}
	}
	w.mu.Unlock()
}

// Withdraw replaces the payload of r by a copy, if it waits and is not being written
// yet, and reports whether it did: then w does not know r any more.
func (w *Writer) Withdraw(r *Payload) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.pieces {
		if p := &w.pieces[i]; p.ref == r {
			p.b, p.ref = append([]byte(nil), r.B...), &Payload{}
			return true
		}
	}
	return false
}

// detach copies what is left of the batch.
func (w *Writer) detach() {
	b := &w.batch
	var rest []byte
	for _, p := range b.bufs {
		rest = append(rest, p...)
	}
	w.release(b)
	b.pieces = append(b.pieces, piece{b: rest})
	b.all = append(b.all[:0], rest)
	b.bufs = b.all
}

// release lets go of the payloads and the memory of b.
func (w *Writer) release(b *batch) {
	w.sent = w.tellSent(b.pieces, w.sent)
	for i := range b.pieces {
		buf.Pool.Put(b.pieces[i].own)
	}
	clear(b.pieces)
	b.pieces = b.pieces[:0]
}

// tellSent lets the senders of payloads go on. It returns the memory of list.
func (w *Writer) tellSent(pieces []piece, list []*Payload) []*Payload {
	list = list[:0]
	for i := range pieces {
		if r := pieces[i].ref; r != nil {
			list = append(list, r)
		}
	}
	if len(list) > 0 {
		w.owner.Sent(list)
		clear(list)
	}
	return list
}

// finish ends a batch.
func (w *Writer) finish(err error) {
	w.release(&w.batch)
	clear(w.batch.all)
	w.batch.bufs = nil
	w.mu.Lock()
	room := w.room
	w.room = false
	w.mu.Unlock()
	if room {
		w.owner.HasRoom()
	}
	if err != nil {
		w.owner.WriteFailed(err)
	}
}
