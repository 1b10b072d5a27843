package guest

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const (
	opListen     = "listen in the guest"
	methodListen = guestv1.ForwardService_Listen_FullMethodName
)

// relistenTimeout bounds one attempt to listen again.
const relistenTimeout = 10 * time.Second

// Listen listens on an address inside the guest: "tcp", "tcp4", "tcp6" or
// "unix". Connections that are made to it there are accepted here; each is as
// one of [Guest.DialContext].
//
// When the connection to the guest is lost, the guest stops listening, and Accept
// listens again on the same address, with the port that was chosen, for as long as
// Config.Reconnect says. Connections made to it meanwhile are refused in the guest;
// those that were accepted are broken. Nothing listens again while nobody is in
// Accept.
//
// ctx bounds the call of Listen alone. The caller must close the listener.
func (g *Guest) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	return g.ListenWith(ctx, network, addr, nil)
}

// ListenOptions say what the file of a Unix socket that is made in the guest has.
type ListenOptions struct {
	// Mode is its permissions, if not nil, of at most 0777: whoever may write may
	// connect. nil means 0755 less the agent's umask, with which only the owner may.
	Mode *fs.FileMode
	// User and Group own it, as names or numbers of the guest; empty: the agent's.
	User, Group string
}

// ListenWith is [Guest.Listen] with options, nil for none. The file has them from the
// start on: it is never more open than asked. An agent that is too old for them makes
// nothing.
func (g *Guest) ListenWith(ctx context.Context, network, addr string, opts *ListenOptions) (net.Listener, error) {
	l := &listener{guest: g, network: network}
	if opts != nil {
		l.options = *opts
	}
	if l.options != (ListenOptions{}) && !g.can(capabilitySocketOwner) {
		e := g.newError(opListen, codes.Unimplemented, ReasonAgentTooOld, "agent too old for the mode and owner of sockets")
		e.Remedy = "update guest-agent in the guest"
		return nil, e
	}
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	stream, at, err := l.listen(ctx, addr)
	if err != nil {
		l.cancel()
		return nil, g.wrap(opListen, methodListen, err)
	}
	l.stream, l.addr = stream, tunnelAddr{network, at}
	return l, nil
}

// listener accepts connections that are made inside the guest.
type listener struct {
	guest   *Guest
	network string
	addr    tunnelAddr
	options ListenOptions
	ctx     context.Context // done when the listener is closed
	cancel  context.CancelFunc

	stream grpc.ServerStreamingClient[guestv1.ListenResponse] // Accept's
}

// listen has the guest listen on addr and returns the call, which lives as long as
// the listener, and the address listened on. ctx bounds the wait for that.
func (l *listener) listen(ctx context.Context, addr string) (grpc.ServerStreamingClient[guestv1.ListenResponse], string, error) {
	callCtx, cancel := context.WithCancel(l.ctx)
	stop := context.AfterFunc(ctx, cancel)
	stream, err := guestv1.NewForwardServiceClient(l.guest.conn).Listen(callCtx, l.request(addr))
	var first *guestv1.ListenResponse
	if err == nil {
		first, err = stream.Recv()
	}
	if n := len(first.GetAddress()); err == nil && (n == 0 || n > maxAddress) {
		err = protocolError("the first message of Listen has an address of %d bytes", n)
	}
	if err != nil || !stop() {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, "", err
	}
	return stream, string(first.GetAddress()), nil
}

// request returns the request to listen on addr.
func (l *listener) request(addr string) *guestv1.ListenRequest {
	r := &guestv1.ListenRequest{Network: l.network, Address: []byte(addr), User: []byte(l.options.User), Group: []byte(l.options.Group)}
	if l.options.Mode != nil {
		r.Mode = proto.Uint32(uint32(*l.options.Mode))
	}
	return r
}

// Accept waits for the next connection. It may not be called concurrently with
// itself; with Close it may.
func (l *listener) Accept() (net.Conn, error) {
	for {
		m, err := l.stream.Recv()
		if err != nil {
			if err := l.again(err); err != nil {
				return nil, l.opError(err)
			}
			continue
		}
		if len(m.GetConnectionId()) == 0 {
			return nil, l.opError(l.guest.wrap(opListen, methodListen, protocolError("a message of Listen names no connection")))
		}
		conn, err := l.guest.openTunnel(l.ctx, "accept in the guest", guestv1.ForwardService_Accept_FullMethodName, l.network,
			&guestv1.AcceptRequest{Message: &guestv1.AcceptRequest_Open{Open: &guestv1.AcceptOpen{ConnectionId: m.GetConnectionId()}}})
		if err == nil {
			return conn, nil
		}
		// That one may have gone away meanwhile, with the connection to the guest or
		// by itself; the next need not have.
		if e, ok := errors.AsType[*Error](err); ok && (e.Reason == "no-connection" || e.Code == codes.Unavailable) {
			continue
		}
		return nil, l.opError(err)
	}
}

// again listens again after the call of Listen has ended with err, unless that is
// for good. It returns what Accept is to say if it does not.
func (l *listener) again(err error) error {
	g := l.guest
	again := reconnector{limit: g.reconnect}
	for tried := false; ; tried = true {
		if l.ctx.Err() != nil {
			return net.ErrClosed
		}
		err = g.wrap("accept in the guest", methodListen, err)
		e, ok := errors.AsType[*Error](err)
		// The agent may hold the address for a call of which it does not know yet
		// that it was lost.
		held := ok && tried && e.Reason == "address-in-use"
		if !held && (!ok || !Temporary(err)) {
			return err
		}
		if !again.wait(l.ctx, g.closed) {
			if l.ctx.Err() != nil {
				return net.ErrClosed
			}
			return err
		}
		ctx, cancel := context.WithTimeout(l.ctx, relistenTimeout)
		var stream grpc.ServerStreamingClient[guestv1.ListenResponse]
		stream, _, err = l.listen(ctx, l.addr.text)
		cancel()
		if err == nil {
			l.stream = stream
			g.log.Info("listening again", "network", l.network, "address", l.addr.text)
			return nil
		}
	}
}

func (l *listener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: l.network, Addr: l.addr, Err: err}
}

// Close stops listening. Connections that were accepted stay.
func (l *listener) Close() error {
	l.cancel()
	return nil
}

func (l *listener) Addr() net.Addr { return l.addr }
