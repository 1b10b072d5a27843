package rpc

import (
	"math"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

const (
	minKeepalive = 10 * time.Millisecond
	// minHTTP2Ping is how often an HTTP/2 client may ask for a sign of life.
	minHTTP2Ping = time.Second
)

// setDefaults makes k's zero values the defaults.
func (k *Keepalive) setDefaults() {
	if k.Time == 0 {
		k.Time = DefaultKeepaliveTime
	}
	if k.Time > 0 {
		k.Time = max(k.Time, minKeepalive)
	}
	if k.Timeout <= 0 {
		k.Timeout = DefaultKeepaliveTimeout
	}
}

func keepaliveOrForever(d time.Duration) time.Duration {
	if d < 0 {
		return math.MaxInt64
	}
	return d
}

// startKeepalive asks the peer for a sign of life whenever nothing has come for
// k.Time, and ends the connection if none comes. It returns the timer.
func (c *conn) startKeepalive(k Keepalive) *time.Timer {
	if k.Time < 0 {
		return nil
	}
	var t *time.Timer
	seen, asked := c.received.Load(), false
	armed := make(chan struct{})
	t = time.AfterFunc(k.Time, func() {
		<-armed
		now := c.received.Load()
		switch {
		case now != seen:
			seen, asked = now, false
			t.Reset(k.Time)
		case asked:
			c.fail(wire.Errorf(wire.CodeTimeout, "no sign of life for %v", k.Time+k.Timeout))
		default:
			asked = true
			c.mu.Lock()
			c.flood.pings++
			c.mu.Unlock()
			c.w.AppendControl(func(b []byte) []byte { return wire.AppendPing(b, 0, [8]byte{'a', 'l', 'i', 'v', 'e', '?'}) })
			c.w.Flush()
			t.Reset(k.Timeout)
		}
	})
	close(armed)
	return t
}

// startTimers starts what ends a connection of a server by itself.
func (sc *serverConn) startTimers() {
	cfg := &sc.srv.cfg
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.err != nil {
		return
	}
	if t := sc.startKeepalive(cfg.Keepalive); t != nil {
		sc.timers = append(sc.timers, t)
	}
	if cfg.MaxConnectionAge > 0 {
		sc.timers = append(sc.timers, time.AfterFunc(cfg.MaxConnectionAge, func() {
			sc.goAway("the connection has reached its age")
			if cfg.MaxConnectionAgeGrace > 0 {
				sc.after(cfg.MaxConnectionAgeGrace, func() { sc.fail(errServerStop) })
			}
		}))
	}
	if cfg.IdleTimeout > 0 {
		sc.watchIdle(cfg.IdleTimeout)
	}
}

// after starts a timer that ends with the connection.
func (sc *serverConn) after(d time.Duration, f func()) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.err == nil {
		sc.timers = append(sc.timers, time.AfterFunc(d, f))
	}
}

// watchIdle ends the connection when it had no call for d. mu is held.
func (sc *serverConn) watchIdle(d time.Duration) {
	var t *time.Timer
	last := sc.calls
	t = time.AfterFunc(d, func() {
		sc.mu.Lock()
		idle := sc.calls == last && sc.active == 0 && len(sc.pending) == 0
		last = sc.calls
		if !idle && sc.err == nil {
			t.Reset(d)
		}
		sc.mu.Unlock()
		if idle {
			sc.goAway("the connection was idle")
		}
	})
	sc.timers = append(sc.timers, t)
}

// goAway lets the client know that it takes no new calls, and closes the
// connection when those in flight have ended.
func (sc *serverConn) goAway(why string) {
	sc.mu.Lock()
	if sc.leaving || sc.err != nil {
		sc.mu.Unlock()
		return
	}
	sc.leaving, sc.last = true, sc.lastID
	sc.w.AppendControl(func(b []byte) []byte { return wire.AppendGoAway(b, sc.last, wire.CodeNone, why) })
	if sc.active == 0 && len(sc.pending) == 0 {
		sc.linger()
	}
	sc.mu.Unlock()
	sc.w.Flush()
}

// linger gives the client time to close a connection that has come to its end. mu
// is held.
func (sc *serverConn) linger() {
	if sc.err == nil && !sc.lingers {
		sc.lingers = true
		sc.timers = append(sc.timers, time.AfterFunc(lingerTime, func() { sc.fail(errServerStop) }))
	}
}
