package rpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// callCtx is the context of a call on the server. It makes a channel and a timer
// only for handlers that ask for them. It may outlive its call.
type callCtx struct {
	parent   context.Context // of the connection
	m        *method
	md       metadata.MD // of the request, never nil
	deadline time.Time   // zero: none

	// hmu guards ss, and the header and trailer of the call, as handlers may send
	// and set headers at the same time. It is taken before conn.mu.
	hmu sync.Mutex
	ss  *serverStream // nil: the call has ended

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
		c.timer = time.AfterFunc(time.Until(c.deadline), c.expired)
	}
}

// expired is called when the deadline has passed.
func (c *callCtx) expired() {
	c.hmu.Lock()
	defer c.hmu.Unlock()
	if c.ss != nil {
		c.ss.expire()
	} else {
		c.cancel(context.DeadlineExceeded)
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
		return (*transportStream)(c)
	case incomingKey:
		// Never nil, so that every handler finds some as it does over HTTP/2.
		return c.md
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

// transportStream is the call as grpc.SetHeader and the like see it.
type transportStream callCtx

var _ grpc.ServerTransportStream = (*transportStream)(nil)

var errCallEnded = status.Error(codes.Internal, "rpc: the call has ended")

func (t *transportStream) Method() string { return t.m.name }

func (t *transportStream) SetHeader(md metadata.MD) error {
	t.hmu.Lock()
	defer t.hmu.Unlock()
	if t.ss == nil {
		return errCallEnded
	}
	return t.ss.setHeader(md)
}

func (t *transportStream) SendHeader(md metadata.MD) error {
	t.hmu.Lock()
	defer t.hmu.Unlock()
	if t.ss == nil {
		return errCallEnded
	}
	return t.ss.sendHeader(md)
}

func (t *transportStream) SetTrailer(md metadata.MD) error {
	t.hmu.Lock()
	defer t.hmu.Unlock()
	if t.ss == nil {
		return errCallEnded
	}
	t.ss.setTrailer(md)
	return nil
}
