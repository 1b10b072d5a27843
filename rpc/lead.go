package rpc

import "time"

// loneBatches is how many batches for one call alone a goroutine reads before it
// leaves the reading to who waits for them.
const loneBatches = 8

// A connection is read either by a goroutine of its own or by a leader: a call
// that waits for a frame and reads the connection meanwhile, which spares it being
// woken by another goroutine. Now and then nobody reads, because the call that has
// led is busy; not for long, since others may have something to say.
type leading struct {
	canLead bool          // a deadline gets a leader out of its read
	patient time.Duration // how long nobody may read

	// Guarded by conn.mu.
	reading   bool // somebody reads
	leader    *waiter
	handTimer *time.Timer
	handArmed bool
	unread    time.Time // since when nobody reads
}

// await waits, with mu held before and after, until w is woken. If nobody reads the
// connection, the caller does so meanwhile.
func (c *conn) await(w *waiter) {
	if c.reading || !c.canLead || c.err != nil {
		c.sleep(w)
		return
	}
	c.reading, c.leader = true, w
	gen := w.gen
	for goOn := true; goOn && w.gen == gen; {
		c.mu.Unlock()
		goOn = c.role.lead()
		c.mu.Lock()
	}
	c.reading, c.leader = false, nil
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
		c.armHandBack()
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

// armHandBack sees to it that a goroutine reads soon, if no leader does. mu is held.
func (c *conn) armHandBack() {
	c.unread = time.Now()
	if !c.handArmed && c.err == nil {
		c.waitHandBack(c.patient)
	}
}

// waitHandBack has handBack called after d. mu is held.
func (c *conn) waitHandBack(d time.Duration) {
	c.handArmed = true
	if c.handTimer == nil {
		c.handTimer = time.AfterFunc(d, c.handBack)
		return
	}
	c.handTimer.Reset(d)
}

func (c *conn) handBack() {
	c.w.Flush() // the preface, if the call it was left for has gone
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handArmed = false
	if c.reading || c.err != nil {
		return
	}
	if left := c.patient - time.Since(c.unread); left > 0 {
		c.waitHandBack(left)
		return
	}
	c.readInBackground()
}

// disarm stops the timer of a connection that has ended. mu is held.
func (c *conn) disarm() {
	if c.handTimer != nil {
		c.handTimer.Stop()
	}
}
