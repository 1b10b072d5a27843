package rpc

// Messages of a stream whose receiver reads the connection itself, as the leader, are
// left in the read buffer until the batch is handled. If they fill most of it the
// buffer is lent to the stream, until they are consumed, and reading goes on with
// another; they are not copied one by one.

// borrowFrom is from what length on a message is not copied at once.
const borrowFrom = 1 << 10

// borrow leaves the message seg in the read buffer, if it is whole and its receiver
// leads, and decodes each message before it asks for the next. mu is held, by the
// goroutine that reads.
func (c *conn) borrow(s *stream, seg *segment) bool {
	n := len(seg.msg)
	if n < borrowFrom || seg.more || seg.total != int64(n) || c.leader != &s.rw || s.loan != nil || s.cl != nil && !s.cl.desc.ServerStreams {
		return false
	}
	c.borrower = s
	c.rd.borrowed += n
	return true
}

// keepBorrowed sees to it, at the end of a batch, that what was left in the read buffer
// stays as it is. It is called by the goroutine that reads.
func (c *conn) keepBorrowed() {
	s := c.borrower
	if s == nil {
		return
	}
	n := c.rd.borrowed
	c.borrower, c.rd.borrowed = nil, 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > readBuffer/2 && s.borrows() {
		s.loan = c.rd.handOver()
		return
	}
	for i := range s.queue {
		if seg := &s.queue[i]; seg.borrowed() {
			seg.own = buffers.copyOf(seg.msg)
			seg.msg = *seg.own
		}
	}
}

// borrowed reports whether seg lies in a read buffer.
func (seg *segment) borrowed() bool { return seg.own == nil }

// borrows reports whether anything in the queue lies in a read buffer. mu is held.
func (s *stream) borrows() bool {
	for i := range s.queue {
		if s.queue[i].borrowed() {
			return true
		}
	}
	return false
}

// repay gives back the read buffer, when all that lay in it is consumed. mu is held, by
// the goroutine that receives.
func (s *stream) repay() {
	if s.loan != nil && !s.borrows() {
		buffers.Put(s.loan)
		s.loan = nil
	}
}
