package rpc

import "time"

// soleBatches is how many batches for one call alone a goroutine reads before it leaves
// the reading to the goroutine of that call.
const soleBatches = 8

// readRole says who reads a connection: a goroutine of its own or, inline, the
// goroutine of a call that waits for a frame, which spares it being woken by another.
// For a short time nobody reads, while the call that has read is busy with something
// else: then a goroutine takes the reading back, since the peer may have something to
// say to others.
type readRole struct {
	interruptible bool          // a deadline ends a blocked read, so that calls may read inline
	unreadLimit   time.Duration // how long nobody may read

	// Guarded by conn.mu.
	reading      bool    // somebody reads
	inlineReader *waiter // what the goroutine that reads inline waits for
	reclaimTimer *time.Timer
	reclaimArmed bool
	unreadSince  time.Time
}

// await blocks, with mu held before and after, until w is woken. If nobody reads the
// connection, the caller reads it meanwhile.
func (c *conn) await(w *waiter) {
	if c.reading || !c.interruptible || c.err != nil {
		c.sleep(w)
		return
	}
	c.reading, c.inlineReader = true, w
	gen := w.gen
	for goOn := true; goOn && w.gen == gen; {
		c.mu.Unlock()
		goOn = c.role.readOnce()
		c.mu.Lock()
	}
	c.reading, c.inlineReader = false, nil
	if w.gen == gen && c.err == nil {
		c.readInBackground()
		c.sleep(w)
		return
	}
	if c.err != nil {
		c.rd.Close()
	} else if c.waiters > 0 {
		c.readInBackground()
	} else {
		c.armReclaim()
	}
}

// readInBackground starts a goroutine that reads, if nobody does. mu is held.
func (c *conn) readInBackground() {
	if c.reading || c.err != nil {
		return
	}
	c.reading = true
	go c.role.readLoop()
}

// armReclaim has a goroutine read once nobody has read for unreadLimit. mu is held.
func (c *conn) armReclaim() {
	c.unreadSince = time.Now()
	if !c.reclaimArmed && c.err == nil {
		c.waitReclaim(c.unreadLimit)
	}
}

// waitReclaim calls reclaimReading after d. mu is held.
func (c *conn) waitReclaim(d time.Duration) {
	c.reclaimArmed = true
	if c.reclaimTimer == nil {
		c.reclaimTimer = time.AfterFunc(d, c.reclaimReading)
		return
	}
	c.reclaimTimer.Reset(d)
}

// reclaimReading starts a goroutine that reads, if nobody has for long enough.
func (c *conn) reclaimReading() {
	c.w.Flush() // the preface, if the call that was to write it is gone
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reclaimArmed = false
	if c.reading || c.err != nil {
		return
	}
	if left := c.unreadLimit - time.Since(c.unreadSince); left > 0 {
		c.waitReclaim(left)
		return
	}
	c.readInBackground()
}

// disarm stops the timer of a connection that has ended. mu is held.
func (c *conn) disarm() {
	if c.reclaimTimer != nil {
		c.reclaimTimer.Stop()
	}
}
