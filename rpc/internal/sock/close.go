package sock

import (
	"slices"
	"time"
)

// lastWordTime is how long the peer has to take the GOAWAY that says what it broke.
const lastWordTime = time.Second

// Close makes every later Append do nothing and closes the connection, after bye if
// that is not nil: after what waits, within lastWordTime, by the goroutine that is
// writing or, if nobody is and there is no room for all of it at once, by one of its own.
func (w *Writer) Close(err error, bye []byte) {
	nc := w.nc
	w.mu.Lock()
	w.err, w.room = err, false
	if bye != nil && w.state == writing {
		w.closing, w.dieAt = true, time.Now().Add(lastWordTime)
		if !Interruptible(nc) || nc.SetWriteDeadline(w.dieAt) != nil {
			time.AfterFunc(lastWordTime, func() { _ = nc.Close() })
		}
		w.pieces = append(w.pieces, piece{b: bye})
		w.bytes += len(bye)
		w.mu.Unlock()
		_ = nc.SetReadDeadline(time.Unix(1, 0)) // nobody reads any more
		return
	}
	free := w.state != writing
	pieces := w.pieces
	w.pieces, w.bytes, w.state = nil, 0, writing
	w.mu.Unlock()
	var all [][]byte
	for _, p := range pieces {
		all = append(all, p.b)
	}
	var rest []byte
	if bye != nil && free {
		n := 0
		all = append(all, bye)
		if w.sock != nil {
			n, _, err = w.sock.writev(all, false, nil)
		}
		if w.sock == nil || err == nil {
			rest = slices.Concat(all...)[n:] // payloads are their senders' from here on
		}
	}
	w.tellSent(pieces, nil)
	if len(rest) == 0 {
		_ = nc.Close()
		return
	}
	_ = nc.SetReadDeadline(time.Unix(1, 0))
	go w.lastWords(rest)
}

// lastWords writes b to a connection that has ended, and closes it.
func (w *Writer) lastWords(b []byte) {
	nc := w.nc
	late := time.AfterFunc(lastWordTime, func() { _ = nc.Close() })
	_, _ = nc.Write(b)
	late.Stop()
	_ = nc.Close()
}
