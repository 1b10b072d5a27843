package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// Client makes gRPC calls over one connection, which it opens when it is first
// needed and again when it was lost. All methods may be called concurrently.
type Client struct {
	cfg   ClientConfig
	dial  func(context.Context) (net.Conn, error)
	tls   *tls.Config
	log   *slog.Logger
	stats statsHandlers

	current atomic.Pointer[clientConn] // for new calls; nil: none

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu       sync.Mutex
	state    connectivity.State
	changed  chan struct{} // closed at the next change of state
	conns    map[*clientConn]struct{}
	trying   bool // a goroutine connects
	waiting  int  // calls that wait for a connection
	failures int  // attempts in a row
	retryAt  time.Time
	lastErr  error
	hello    HelloInfo
	helloed  bool
	closed   bool
}

var _ grpc.ClientConnInterface = (*Client)(nil)

// NewClient returns a client that uses dial to connect. It does not connect yet.
// dial must honour its context, or calls cannot end before it does; the client closes
// what it returns. A nil cfg means the defaults.
func NewClient(dial func(context.Context) (net.Conn, error), cfg *ClientConfig) *Client {
	c := &Client{dial: dial, changed: make(chan struct{}), conns: make(map[*clientConn]struct{})}
	if cfg != nil {
		c.cfg = *cfg
	}
	c.cfg.setDefaults()
	c.log = c.cfg.Logger
	c.stats = slices.Clone(c.cfg.StatsHandlers)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if c.cfg.TLS != nil {
		c.tls = c.cfg.TLS.Clone()
		c.tls.NextProtos = []string{alpn}
	}
	return c
}

// State returns the state of the connection, as of a grpc.ClientConn.
func (c *Client) State() connectivity.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// WaitForStateChange waits until the state is no longer from, and reports whether
// that happened before ctx ended.
func (c *Client) WaitForStateChange(ctx context.Context, from connectivity.State) bool {
	for {
		c.mu.Lock()
		state, changed := c.state, c.changed
		c.mu.Unlock()
		if state != from {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// Connect starts connecting if the client is idle. It does not wait.
func (c *Client) Connect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && c.current.Load() == nil && !c.trying && !time.Now().Before(c.retryAt) {
		c.beginTrying()
		go c.connect(context.Background())
	}
}

// Hello returns what the server said about itself on the present or latest
// connection, and whether it has said anything yet.
func (c *Client) Hello() (HelloInfo, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello, c.helloed
}

// Close ends the connection and every call on it with codes.Canceled. Later
// calls fail with the same code. It may be called more than once.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.setState(connectivity.Shutdown)
	c.current.Store(nil)
	all := make([]*clientConn, 0, len(c.conns))
	for cc := range c.conns {
		all = append(all, cc)
	}
	c.mu.Unlock()
	c.cancel()
	for _, cc := range all {
		cc.fail(errClientClosed)
	}
	return nil
}

// setState changes the state and wakes its waiters. mu is held.
func (c *Client) setState(s connectivity.State) {
	if c.state == s || c.state == connectivity.Shutdown {
		return
	}
	c.state = s
	c.notify()
}

// notify wakes all waiters for a change. mu is held.
func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// conn returns a connection for a call, and connects if there is none.
func (c *Client) conn(ctx context.Context, waitForReady bool) (*clientConn, error) {
	if cc := c.current.Load(); cc != nil {
		return cc, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting++
	defer func() { c.waiting-- }()
	for {
		if c.closed {
			return nil, errClientClosed
		}
		if cc := c.current.Load(); cc != nil {
			return cc, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, c.waitError(err)
		}
		failures := c.failures
		if wait := time.Until(c.retryAt); !c.trying && wait <= 0 {
			c.beginTrying()
			c.mu.Unlock()
			c.connect(ctx)
			c.mu.Lock()
		} else if !c.trying && !waitForReady {
			return nil, c.lastError()
		} else {
			c.wait(ctx, wait)
		}
		if !waitForReady && c.failures > failures && c.current.Load() == nil {
			return nil, c.lastError()
		}
	}
}

// wait waits until something changes, ctx ends, or, if nobody is connecting, d is
// over. mu is held before and after.
func (c *Client) wait(ctx context.Context, d time.Duration) {
	var retry <-chan time.Time
	if !c.trying {
		t := time.NewTimer(d)
		defer t.Stop()
		retry = t.C
	}
	changed := c.changed
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-changed:
	case <-retry:
	case <-ctx.Done():
	}
}

// lastError returns why there is no connection. mu is held.
func (c *Client) lastError() error {
	if nn := asNotNative(c.lastErr); nn != nil {
		return nn.callError()
	}
	return status.Errorf(codes.Unavailable, "rpc: cannot connect: %v", c.lastErr)
}

// waitError is the error of a call whose context ended while it waited. mu is held.
func (c *Client) waitError(err error) error {
	st := status.FromContextError(err)
	if c.lastErr == nil {
		return st.Err()
	}
	return status.Errorf(st.Code(), "%s while waiting for a connection; the last attempt: %v", st.Message(), c.lastErr)
}

// beginTrying begins an attempt to connect, which connect makes. mu is held.
func (c *Client) beginTrying() {
	c.trying = true
	c.setState(connectivity.Connecting)
}

// connect makes an attempt to connect, on the goroutine of the call of ctx: to hand
// it to another and wait would take longer than to connect does. If ctx ends first
// another goroutine begins anew, so that calls of little patience get on as well.
func (c *Client) connect(ctx context.Context) {
	a := newAttempt(c.ctx, c.cfg.ConnectTimeout)
	stop := context.AfterFunc(ctx, a.cancel)
	cc, err := c.dialConn(a)
	stop()
	a.cancel()
	if err != nil {
		a.timer.Stop()
		if ctx.Err() != nil {
			go c.connect(context.Background())
			return
		}
	}
	c.mu.Lock()
	c.trying = false
	if c.closed {
		c.mu.Unlock()
		if err == nil {
			a.timer.Stop()
			_ = cc.nc.Close()
		}
		return
	}
	if err != nil {
		c.attemptFailed(a.explain(err))
		c.mu.Unlock()
		return
	}
	c.conns[cc] = struct{}{}
	calls := c.waiting > 0
	c.mu.Unlock()
	cc.begin(a, calls)
	c.mu.Lock()
	if _, ok := c.conns[cc]; ok && !c.closed {
		c.current.Store(cc)
	}
	c.notify()
	c.mu.Unlock()
}

// dialConn makes a connection, with TLS if that is configured.
func (c *Client) dialConn(ctx context.Context) (*clientConn, error) {
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	p := peer.Peer{Addr: nc.RemoteAddr(), LocalAddr: nc.LocalAddr(), AuthInfo: authInfoOf(nc)}
	if c.tls != nil {
		tc := tls.Client(nc, c.tls)
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = nc.Close()
			return nil, fmt.Errorf("TLS: %w", err)
		}
		cs := tc.ConnectionState()
		if cs.NegotiatedProtocol != alpn {
			_ = nc.Close()
			return nil, &notNative{fmt.Sprintf("TLS: the peer does not agree on protocol %q, so it does not speak the native wire: use the wire \"grpc\", or a newer agent", alpn)}
		}
		p.AuthInfo = tlsInfo(cs, p.AuthInfo)
		nc = tc
	}
	return newClientConn(c, nc, p), nil
}

// attemptFailed records that connecting failed. mu is held.
func (c *Client) attemptFailed(err error) {
	c.lastErr = err
	b := c.cfg.Backoff
	d := float64(b.BaseDelay)
	for range c.failures {
		if d *= b.Multiplier; d >= float64(b.MaxDelay) {
			break
		}
	}
	d = min(d, float64(b.MaxDelay)) * (1 + b.Jitter*(2*rand.Float64()-1))
	c.failures++
	c.retryAt = time.Now().Add(time.Duration(d))
	if c.state == connectivity.TransientFailure {
		c.notify()
	}
	c.setState(connectivity.TransientFailure)
}

// ready is called when the server's HELLO has come.
func (c *Client) ready(cc *clientConn, h wire.Hello) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.current.Load() != cc {
		// It comes while connect has not stored cc yet, or after the end.
		if _, ok := c.conns[cc]; !ok || c.closed {
			return
		}
	}
	c.hello, c.helloed = HelloInfo(h.Info), true
	cc.failures = c.failures
	c.failures, c.lastErr, c.retryAt = 0, nil, time.Time{}
	c.setState(connectivity.Ready)
}

// leave stops giving new calls to cc.
func (c *Client) leave(cc *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.CompareAndSwap(cc, nil) && !c.closed {
		c.setState(connectivity.Idle)
	}
}

// disconnected is called once for every connection that was begun, before its calls
// end: one that is made again must find c in its new state. known says that the
// server's HELLO had come, proven that a call has ended in order. cc.mu is held.
func (c *Client) disconnected(cc *clientConn, err error, known, proven bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, cc)
	mine := c.current.CompareAndSwap(cc, nil)
	if c.closed || !mine && known {
		return
	}
	if known && isFault(err) {
		// The next connection is likely to end the same way.
		if !proven {
			c.failures = cc.failures
		}
		c.attemptFailed(err)
		return
	}
	if known || errors.Is(err, errConnClosed) {
		c.lastErr = err
		c.setState(connectivity.Idle)
		return
	}
	c.attemptFailed(err)
}

// isFault reports whether a connection has ended because one side broke the rules, as
// it or the other says.
func isFault(err error) bool {
	var ge *goneError
	var ce *wire.Error
	return errors.As(err, &ge) || errors.As(err, &ce) && ce.Code != wire.CodeTimeout
}
