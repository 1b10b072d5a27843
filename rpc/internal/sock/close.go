package sock

import "time"

// lastWordTime is how long the peer has to take the GOAWAY that says what it broke.
const lastWordTime = time.Second

// Close makes every later Append do nothing and closes the connection, after bye if
// that is not nil: at once if there is room for it or, if somebody is writing, by that
// goroutine after what waits, within lastWordTime.
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
	switch all = append(all, bye); {
	case bye == nil || !free:
		_ = nc.Close()
	case w.sock != nil:
		_, _, _ = w.sock.writev(all, false, nil)
		_ = nc.Close()
	default:
		_ = nc.SetReadDeadline(time.Unix(1, 0))
		go w.lastWords(all)
	}
	w.tellSent(pieces, nil)
}

// lastWords writes all to a connection that has ended, and closes it.
func (w *Writer) lastWords(all [][]byte) {
	nc := w.nc
	late := time.AfterFunc(lastWordTime, func() { _ = nc.Close() })
	for _, b := range all {
		if _, err := nc.Write(b); err != nil {
			break
		}
	}
	late.Stop()
	_ = nc.Close()
}
