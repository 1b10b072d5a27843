package rpc

import (
	"sync"
	"time"
)

// A waiter is an event that goroutines block on, several at a time if they like. All
// of it is guarded by conn.mu. It is no channel, since streams are recycled, and a
// channel belongs to the bubble of testing/synctest in which it was made.
type waiter struct {
	cond     sync.Cond
	gen      uint64 // changes with each wake
	sleepers int    // blocked in cond
}

// waited reports whether anybody blocks on w. mu is held.
func (c *conn) waited(w *waiter) bool { return w.sleepers > 0 || w == c.inlineReader }

// wake wakes everybody who blocks on w. mu is held. outside says that the caller is
// not handling a frame, so that a goroutine that reads inline must be interrupted.
func (c *conn) wake(w *waiter, outside bool) {
	if c.woken(w, outside) {
		w.cond.Broadcast()
	}
}

// woken is wake but for the signal, which has to follow if it returns true, with or
// without mu.
func (c *conn) woken(w *waiter, outside bool) bool {
	if !c.waited(w) {
		return false
	}
	w.gen++
	if w == c.inlineReader && outside {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	n := w.sleepers
	w.sleepers = 0
	c.waiters -= n
	return n > 0
}

// wakeLater wakes the receiver of s when all frames of the batch are handled. mu is
// held, by the goroutine that reads.
func (c *conn) wakeLater(s *stream) {
	if c.waited(&s.rw) {
		c.wakes = append(c.wakes, s)
		s.listed++
	}
}

// wakeNow wakes those that wakeLater has put off.
func (c *conn) wakeNow() {
	if len(c.wakes) == 0 {
		return
	}
	n := 0
	c.mu.Lock()
	for _, s := range c.wakes {
		s.listed--
		if c.woken(&s.rw, false) {
			c.wakes[n] = s
			n++
		}
	}
	c.mu.Unlock()
	// Not before: the receiver asks for mu at once.
	for _, s := range c.wakes[:n] {
		s.rw.cond.Broadcast()
	}
	clear(c.wakes)
	c.wakes = c.wakes[:0]
}

// sleep blocks, with mu held before and after, until somebody else wakes w.
func (c *conn) sleep(w *waiter) {
	w.cond.L = &c.mu
	w.sleepers++
	c.waiters++
	for gen := w.gen; w.gen == gen; {
		w.cond.Wait()
	}
}
