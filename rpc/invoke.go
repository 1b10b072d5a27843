package rpc

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// Invoke implements grpc.ClientConnInterface. args and reply may be proto.Message
// or BytesMessage; args is the caller's again when it returns.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if len(c.cfg.DefaultCallOptions) > 0 {
		opts = append(slices.Clip(c.cfg.DefaultCallOptions), opts...)
	}
	if i := c.cfg.UnaryInterceptor; i != nil {
		return i(ctx, method, args, reply, nil, c.invoker, opts...)
	}
	return c.invoke(ctx, method, args, reply, opts)
}

func (c *Client) invoker(ctx context.Context, method string, args, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
	return c.invoke(ctx, method, args, reply, opts)
}

var unaryDesc = &grpc.StreamDesc{}

// unaryStreams recycles the streams of unary calls.
var unaryStreams = sync.Pool{New: func() any {
	cs := &clientStream{desc: unaryDesc}
	cs.cancelFn = cs.cancelled
	return cs
}}

// recycle makes cs as new and puts it into the pool, if nothing can know it any more.
func (cs *clientStream) recycle() {
	if !cs.released {
		cs.c.mu.Lock()
		cs.released = cs.unlisted()
		cs.c.mu.Unlock()
		if !cs.released {
			return
		}
	}
	*cs = clientStream{desc: unaryDesc, cancelFn: cs.cancelFn}
	unaryStreams.Put(cs)
}

func (c *Client) invoke(ctx context.Context, method string, args, reply any, opts []grpc.CallOption) error {
	var ci callInfo
	if err := ci.apply(opts); err != nil {
		return err
	}
	var e encoded
	if err := e.encode(&ci.codec, args); err != nil {
		return err
	}
	defer e.free()
	if n := e.size(); n > ci.maxSend {
		return status.Errorf(codes.ResourceExhausted, "rpc: trying to send message larger than max (%d vs. %d)", n, ci.maxSend)
	}
	for n := 0; ; n++ {
		err := c.attempt(ctx, method, args, reply, &e, &ci, opts)
		if err == nil {
			return nil
		}
		var nr *errNotRun
		if !errors.As(err, &nr) {
			return err
		}
		// The call has provably not run. Without WaitForReady it is made again only
		// if there is, or may be, a connection that takes it.
		if !ci.waitForReady && !c.retries(nr) {
			return nr.err
		}
		if err := c.pause(ctx, n); err != nil {
			return status.FromContextError(err).Err()
		}
	}
}

// pause waits before the call is made again for the nth time: not at all at first,
// and then longer each time, up to what the client waits between attempts to connect.
func (c *Client) pause(ctx context.Context, n int) error {
	if n == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(min(time.Millisecond<<min(n, 20), c.cfg.Backoff.MaxDelay))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retries reports whether a call that failed with nr should be made again although
// it does not wait for a connection.
func (c *Client) retries(nr *errNotRun) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed && (c.lastErr == nil || time.Now().After(c.retryAt))
}

// attempt makes the call once.
func (c *Client) attempt(ctx context.Context, method string, args, reply any, e *encoded, ci *callInfo, opts []grpc.CallOption) error {
	cs := unaryStreams.Get().(*clientStream)
	if err := c.prepare(ctx, cs, method, ci, opts); err != nil {
		unaryStreams.Put(cs)
		return err
	}
	err := cs.unary(args, reply, e)
	if ci.observed || c.stats != nil {
		cs.finish(unwrapNotRun(err))
	}
	if cs.stop == nil || cs.stop() {
		cs.recycle()
	}
	return err
}

func isNotRun(err error) bool {
	var nr *errNotRun
	return err != nil && errors.As(err, &nr)
}

// prepare makes cs a call on a connection.
func (c *Client) prepare(ctx context.Context, cs *clientStream, method string, ci *callInfo, opts []grpc.CallOption) error {
	if c.stats != nil {
		cs.begun = time.Now()
		for _, s := range c.stats {
			ctx = s.TagRPC(ctx, &stats.RPCTagInfo{FullMethodName: method, FailFast: !ci.waitForReady})
		}
		cs.statsCtx = ctx
		c.stats.all(ctx, &stats.Begin{Client: true, BeginTime: cs.begun, FailFast: !ci.waitForReady,
			IsClientStream: cs.desc.ClientStreams, IsServerStream: cs.desc.ServerStreams})
	}
	cc, err := c.conn(ctx, ci.waitForReady)
	if err == nil {
		cs.md, err = c.requestMetadata(ctx, method, ci, cc)
	}
	if err != nil {
		if ci.observed {
			onFinish(opts, err)
		}
		c.stats.clientEnd(ctx, cs.begun, nil, err)
		return err
	}
	cs.cc, cs.c, cs.cl = cc, &cc.conn, cs
	cs.ctx, cs.name, cs.opts, cs.info = ctx, method, opts, *ci
	if c.stats != nil {
		c.stats.all(ctx, &stats.OutHeader{Client: true, FullMethod: method, Header: cs.md.Copy(),
			RemoteAddr: cc.peerInfo.Addr, LocalAddr: cc.peerInfo.LocalAddr})
	}
	if ctx.Done() != nil {
		cs.stop = context.AfterFunc(ctx, cs.cancelFn)
	}
	return nil
}

// unary sends the request and receives the answer.
func (cs *clientStream) unary(args, reply any, e *encoded) error {
	sent, err := cs.open(e, true)
	if err != nil {
		return err
	}
	if !sent {
		if err := cs.sendMessage(e.head, e.body, wire.FlagClose, sock.Now); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	client := cs.cc.client
	client.stats.outPayload(cs.ctx, args, e.size(), true)
	msg, released, ok := cs.only(cs.info.maxRecv)
	if !ok {
		if msg, err = cs.oneMessage(); err != nil {
			return err
		}
	}
	cs.released = released
	size := len(msg.data)
	if err := msg.decode(&cs.info.codec, reply); err != nil {
		return status.Errorf(codes.Internal, "rpc: failed to unmarshal the received message: %v", err)
	}
	client.stats.inPayload(cs.ctx, reply, size, true)
	return nil
}

// oneMessage receives the answer, of whatever form the stream's end is.
func (cs *clientStream) oneMessage() (message, error) {
	msg, err := cs.next(cs.info.maxRecv)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return msg, status.Error(codes.Internal, "rpc: the status is OK, but there is no message")
		}
		if status.Code(err) == codes.ResourceExhausted {
			cs.cancelWith(err)
		}
		return msg, err
	}
	switch err = cs.noMore(); {
	case err == nil:
		msg.drop()
		err = status.Error(codes.Internal, "rpc: a second message, where the method answers with one")
		cs.cancelWith(err)
		return msg, err
	case !errors.Is(err, io.EOF):
		msg.drop()
		return msg, err
	}
	return msg, nil
}

// NewStream implements grpc.ClientConnInterface. The stream must be read to its
// end, or ctx be cancelled.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if len(c.cfg.DefaultCallOptions) > 0 {
		opts = append(slices.Clip(c.cfg.DefaultCallOptions), opts...)
	}
	if i := c.cfg.StreamInterceptor; i != nil {
		return i(ctx, desc, nil, method, c.streamer, opts...)
	}
	return c.newStream(ctx, desc, method, opts)
}

func (c *Client) streamer(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.newStream(ctx, desc, method, opts)
}

func (c *Client) newStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts []grpc.CallOption) (grpc.ClientStream, error) {
	var ci callInfo
	if err := ci.apply(opts); err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		cs := &clientStream{desc: desc}
		cs.cancelFn = cs.cancelled
		if err := c.prepare(ctx, cs, method, &ci, opts); err != nil {
			return nil, err
		}
		if !desc.ClientStreams {
			return cs, nil // the first message opens it
		}
		_, err := cs.open(nil, false)
		if err == nil {
			return cs, nil
		}
		cs.finish(unwrapNotRun(err))
		var nr *errNotRun
		if !errors.As(err, &nr) || !ci.waitForReady && !c.retries(nr) {
			return nil, unwrapNotRun(err)
		}
		if err := c.pause(ctx, n); err != nil {
			return nil, status.FromContextError(err).Err()
		}
	}
}
