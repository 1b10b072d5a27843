package guest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// clientConn is what both wires have.
type clientConn interface {
	grpc.ClientConnInterface
	Close() error
}

// link is the connection of a Guest, made anew when it is lost. A call is only sent on
// a connection whose other end has shown that it is the guest that answered first.
type link struct {
	guest  *Guest
	tls    *tls.Config
	dialer *dialer

	mu      sync.Mutex
	current *oneConn
	old     []*oneConn // their last calls may still be under way
	closed  bool
}

var _ grpc.ClientConnInterface = (*link)(nil)

// maxOld bounds the connections that are over and not closed.
const maxOld = 2

// oneConn is a client that connects once: a call on it cannot get to another machine.
type oneConn struct {
	conn     clientConn
	used     atomic.Bool // it has connected
	over     atomic.Bool // it would connect a second time
	checking chan struct{}
	checked  bool   // guarded by checking
	run      string // what runPin compares; guarded by checking
	lost     bool   // its connection was closed; guarded by the guest's hooks
}

// errOver marks the failure of a call that has not been sent since its connection was
// lost before. Nobody else knows the word.
var errOver = errors.New("the connection is over " + rand.Text())

// newConn returns a client that has not connected yet.
func (l *link) newConn() (*oneConn, error) {
	c := &oneConn{checking: make(chan struct{}, 1)}
	var err error
	c.conn, err = connect(l.dialer.config, l.dialer.log, l.tls, func(ctx context.Context) (net.Conn, error) {
		if c.used.Load() {
			c.over.Store(true)
			return nil, errOver
		}
		conn, err := l.dialer.dial(ctx)
		if err == nil && c.used.Swap(true) {
			conn.Close()
			c.over.Store(true)
			return nil, errOver
		}
		if err != nil {
			return nil, err
		}
		return tracked(conn, func() { l.guest.hooks.lost(c) }), nil
	})
	return c, err
}

// take returns the present connection, or a new one if that is over.
func (l *link) take() (*oneConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, l.guest.newError("", codes.Canceled, ReasonClosed, "the guest was closed")
	}
	if l.current != nil && !l.current.over.Load() {
		return l.current, nil
	}
	c, err := l.newConn()
	if err != nil {
		return nil, err
	}
	if l.current != nil {
		l.old = append(l.old, l.current)
	}
	for len(l.old) > maxOld {
		l.old[0].conn.Close()
		l.old = l.old[1:]
	}
	l.current = c
	return c, nil
}

// meet returns the present connection once it has shown to be the guest's.
func (l *link) meet(ctx context.Context) (*oneConn, error) {
	c, err := l.take()
	if err != nil {
		return nil, err
	}
	select {
	case c.checking <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	checked, run := c.checked, c.run
	<-c.checking
	if !checked {
		if run, err = l.ask(ctx, c, &guestv1.InfoResponse{}); err != nil {
			return c, err
		}
	}
	if pin, ok := ctx.Value(runKey{l.guest}).(*runPin); ok && !pin.is(run) {
		return nil, l.guest.otherGuest("it was started anew")
	}
	return c, nil
}

// ask has the agent describe itself, and finds out whether it is the one that answered
// first. One caller at a time does so.
func (l *link) ask(ctx context.Context, c *oneConn, info *guestv1.InfoResponse) (run string, err error) {
	select {
	case c.checking <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-c.checking }()
	if err := invoke(ctx, c.conn, guestv1.AgentService_Info_FullMethodName, &guestv1.InfoRequest{}, info); err != nil {
		return "", err
	}
	if err := l.guest.recognize(info); err != nil {
		c.over.Store(true)
		return "", err
	}
	l.guest.know(info)
	if !c.checked {
		l.guest.hooks.connected(c, info)
	}
	c.checked, c.run = true, runOf(info)
	return c.run, nil
}

// again reports whether a call that failed with err was not sent, since its connection
// was lost before, and may be made on the next one.
func again(n int, err error) bool {
	const tries = 3
	return n < tries && err != nil && strings.Contains(err.Error(), errOver.Error())
}

// Invoke implements grpc.ClientConnInterface.
func (l *link) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	for n := 0; ; n++ {
		err := l.invokeOnce(ctx, method, args, reply, opts)
		if !again(n, err) {
			return err
		}
	}
}

func (l *link) invokeOnce(ctx context.Context, method string, args, reply any, opts []grpc.CallOption) error {
	if info, ok := reply.(*guestv1.InfoResponse); ok && method == guestv1.AgentService_Info_FullMethodName {
		c, err := l.take()
		if err == nil {
			_, err = l.ask(ctx, c, info)
		}
		return err
	}
	c, err := l.meet(ctx)
	if err != nil {
		return err
	}
	return c.conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (l *link) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	for n := 0; ; n++ {
		c, err := l.meet(ctx)
		var st grpc.ClientStream
		if err == nil {
			st, err = c.conn.NewStream(ctx, desc, method, opts...)
		}
		if !again(n, err) {
			return st, err
		}
	}
}

// Close implements clientConn.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for _, c := range append(l.old, l.current) {
		if c != nil {
			errs = append(errs, c.conn.Close())
		}
	}
	l.old, l.current = nil, nil
	return errors.Join(errs...)
}

// bounded is a connection on which the answers of the guest take no more memory than
// bulk.MaxDecoded each.
type bounded struct{ *link }

// Invoke implements grpc.ClientConnInterface.
func (b bounded) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if method == guestv1.AgentService_Info_FullMethodName {
		return b.link.Invoke(ctx, method, args, reply, opts...)
	}
	return invoke(ctx, b.link, method, args, reply, opts...)
}

func invoke(ctx context.Context, conn grpc.ClientConnInterface, method string, args, reply any, opts ...grpc.CallOption) error {
	m := boundedMessage(reply)
	return m.explain(conn.Invoke(ctx, method, args, m.target(reply), opts...))
}

// NewStream implements grpc.ClientConnInterface.
func (b bounded) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	st, err := b.link.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return boundedStream{st}, nil
}

type boundedStream struct{ grpc.ClientStream }

// RecvMsg implements grpc.ClientStream.
func (s boundedStream) RecvMsg(v any) error {
	m := boundedMessage(v)
	err := s.ClientStream.RecvMsg(m.target(v))
	if err == io.EOF {
		return err
	}
	return m.explain(err)
}

// answer is a message that is decoded by bulk.Unmarshal.
type answer struct {
	proto.Message
	err error // of decoding
}

var _ rpc.BytesMessage = (*answer)(nil)

// boundedMessage returns v as an answer, or nil if it is decoded in another way.
func boundedMessage(v any) *answer {
	if _, ok := v.(rpc.BytesMessage); ok {
		return nil
	}
	if m, ok := v.(proto.Message); ok {
		return &answer{Message: m}
	}
	return nil
}

func (a *answer) target(v any) any {
	if a == nil {
		return v
	}
	return a
}

// explain makes what decoding has said of err, if that is why it is one.
func (a *answer) explain(err error) error {
	if err != nil && a != nil && a.err != nil {
		return protocolError("%v", a.err)
	}
	return err
}

// UnmarshalBytes implements rpc.BytesMessage.
func (a *answer) UnmarshalBytes(data mem.Buffer) error {
	a.err = bulk.Unmarshal(data.ReadOnlyData(), a.Message)
	return a.err
}

// MarshalBytes implements rpc.BytesMessage. An answer is never sent.
func (a *answer) MarshalBytes(head []byte) (_, payload []byte, err error) {
	head, err = proto.MarshalOptions{}.MarshalAppend(head, a.Message)
	return head, nil, err
}
