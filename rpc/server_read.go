package rpc

import (
	"errors"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// readLoop reads until the connection ends or another goroutine takes over.
func (sc *serverConn) readLoop() {
	rd := sc.rd
	// What was read before this goroutine took over comes first.
	if err := sc.process(); err != nil {
		sc.stopReading(rd, err)
		return
	}
	if sc.quitLockedThread() {
		rd.Close()
		return
	}
	if !sc.greeted {
		sc.after(sc.srv.cfg.HandshakeTimeout, func() {
			sc.mu.Lock()
			known := sc.peerKnown
			sc.mu.Unlock()
			if !known {
				sc.fail(wire.Errorf(wire.CodeTimeout, "no HELLO within %v", sc.srv.cfg.HandshakeTimeout))
			}
		})
	}
	for {
		sc.w.Flush()
		if !sc.waitForRoom() {
			rd.Close()
			return
		}
		var spin time.Duration
		if sc.soleReads++; sc.batchOpens > 1 {
			sc.soleReads = 0
		}
		if sc.spins && sc.soleReads > soleBatches && sc.inFlight.Load() == 0 {
			spin = sc.srv.cfg.Spin
		}
		sc.batchOpens = 0
		if err := sc.readBatch(spin); err != nil {
			sc.stopReading(rd, err)
			return
		}
		if sc.quitLockedThread() {
			rd.Close()
			return
		}
		if sc.yieldReading() {
			return
		}
	}
}

// stopReading gives back the memory of a read loop. The connection ends with err,
// unless that says that another goroutine reads on.
func (sc *serverConn) stopReading(rd *sock.Reader, err error) {
	if !errors.Is(err, errReaderMoved) {
		sc.fail(err)
	}
	rd.Close()
}

// yieldReading leaves the reading to the handler of the only call, if the last batches
// were for that alone. It reports whether it did.
func (sc *serverConn) yieldReading() bool {
	if sc.fed++; sc.batchOpens > 0 || sc.inFlight.Load() != 1 {
		sc.fed = 0
	}
	if sc.fed < soleBatches || !sc.interruptible {
		return false
	}
	sc.fed = 0
	sc.w.Flush()
	sc.mu.Lock()
	defer sc.mu.Unlock()
	for _, s := range sc.streams {
		sc.wake(&s.rw, false) // it may have waited again already
	}
	if sc.waiters > 0 || sc.err != nil {
		return false
	}
	sc.reading = false
	sc.armReclaim()
	return true
}

// readOnce implements role, for the handler of the only call. With more calls, or a
// client that does not read its answers, a goroutine reads again.
func (sc *serverConn) readOnce() bool {
	if sc.w.Full() {
		return false
	}
	if err := sc.readBatch(0); err != nil {
		sc.fail(err)
		return false
	}
	sc.w.Flush()
	return sc.inFlight.Load() == 1
}

// waitForRoom stops reading from a client that does not read its answers. It
// reports false if the connection has ended.
func (sc *serverConn) waitForRoom() bool {
	if !sc.w.AwaitRoom() {
		return true
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.readerWaits = true
	for sc.readerWaits && sc.err == nil {
		if !sc.w.AwaitRoom() {
			break
		}
		sc.sleep(&sc.readerRoom)
	}
	sc.readerWaits = false
	return sc.err == nil
}
