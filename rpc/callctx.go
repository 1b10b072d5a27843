package rpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// callCtx is the context of a call on the server. It is part of the call's own
// memory, and makes a channel and a timer only for handlers that ask for them.
type callCtx struct {
	parent   context.Context // of the connection
	ss       *serverStream
	deadline time.Time // zero: none

	mu    sync.Mutex
	done  chan struct{}
	err   error
	timer *time.Timer
	funcs map[*func()]struct{}
}

var _ context.Context = (*callCtx)(nil)

// Deadline implements context.Context.
func (c *callCtx) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

// Done implements context.Context.
func (c *callCtx) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		} else {
			c.startTimer()
		}
	}
	return c.done
}

// startTimer makes the deadline end the call. mu is held.
func (c *callCtx) startTimer() {
	if c.timer == nil && !c.deadline.IsZero() {
		c.timer = time.AfterFunc(time.Until(c.deadline), c.ss.expired)
	}
}

// Err implements context.Context.
func (c *callCtx) Err() error {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.cancel(context.DeadlineExceeded)
		return c.Err()
	}
	return err
}

// The keys under which gRPC's packages look for what belongs to a call; they are
// not exported, but asked for.
var streamKey, incomingKey = contextKeys()

type keyProbe struct {
	context.Context
	key any
}

func (p *keyProbe) Value(key any) any {
	p.key = key
	return nil
}

func contextKeys() (stream, incoming any) {
	p := &keyProbe{Context: context.Background()}
	grpc.ServerTransportStreamFromContext(p)
	stream = p.key
	metadata.FromIncomingContext(p)
	return stream, p.key
}

// Value implements context.Context.
func (c *callCtx) Value(key any) any {
	switch key {
	case streamKey:
		return (*transportStream)(c.ss)
	case incomingKey:
		return c.ss.incoming()
	}
	return c.parent.Value(key)
}

// AfterFunc lets package context watch this one without a goroutine.
func (c *callCtx) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	c.startTimer()
	if c.funcs == nil {
		c.funcs = make(map[*func()]struct{})
	}
	key := &f
	c.funcs[key] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, ok := c.funcs[key]
		delete(c.funcs, key)
		return ok
	}
}

// cancel ends the context with err. Only the first call counts.
func (c *callCtx) cancel(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	funcs := c.funcs
	c.funcs = nil
	c.mu.Unlock()
	for f := range funcs {
		go (*f)()
	}
}
