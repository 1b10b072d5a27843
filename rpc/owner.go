package rpc

import "github.com/vsockrpc/vsockrpc/rpc/internal/sock"

// owner is a conn as its writer sees it.
type owner conn

var _ sock.Owner = (*owner)(nil)

// Busy implements sock.Owner.
func (o *owner) Busy() bool { return o.inFlight.Load() > 1 }

// WriterSleeps implements sock.Owner: this side may be waiting for the peer to read,
// and the peer for this side.
func (o *owner) WriterSleeps() {
	c := (*conn)(o)
	c.mu.Lock()
	c.readInBackground()
	c.mu.Unlock()
}

// Sent implements sock.Owner.
func (o *owner) Sent(all []*sock.Payload) {
	c := (*conn)(o)
	c.mu.Lock()
	for _, p := range all {
		p.Done = true
		if s, ok := p.Owner.(*stream); ok {
			c.wake(&s.sw, true)
		}
	}
	c.mu.Unlock()
}

// HasRoom implements sock.Owner.
func (o *owner) HasRoom() {
	c := (*conn)(o)
	c.mu.Lock()
	c.wakeRoomWait()
	c.role.hasRoom()
	c.mu.Unlock()
}

// WriteFailed implements sock.Owner.
func (o *owner) WriteFailed(err error) { (*conn)(o).fail(err) }
