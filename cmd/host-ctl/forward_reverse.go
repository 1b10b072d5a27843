package main

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/localhost"
)

// Times between the tries to listen again.
const (
	relistenFirst = 100 * time.Millisecond
	relistenLast  = 5 * time.Second
)

// serveReverse carries what is accepted by l, in the guest, to the target of s,
// here. When the connection to the guest is lost the guest stops listening: then
// it is asked to listen again, on the same address, until ctx ends.
func (f *forwarder) serveReverse(ctx context.Context, l net.Listener, s forwardSpec, n *notices) error {
	if s.listen.network != "unix" {
		s.listen.addr = l.Addr().String() // with the port that was chosen
	}
	dial := func(ctx context.Context, _ net.Conn) (net.Conn, error) {
		return localhost.Dial(ctx, &net.Dialer{Timeout: dialTimeout}, s.target.network, s.target.addr)
	}
	for {
		err := f.serveOnce(ctx, l, n, dial)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.say(err)
		for wait := relistenFirst; ; wait = min(2*wait, relistenLast) {
			l, err = f.relisten(ctx, s)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if e, ok := errors.AsType[*guest.Error](err); ok && e.Reason != "address-in-use" && !guest.Temporary(err) {
				return err
			}
			n.say(err)
			if err := sleep(ctx, wait); err != nil {
				return err
			}
		}
		if err := f.announce(s, l); err != nil {
			return err
		}
	}
}

// serveOnce serves until l fails or ctx ends, and closes l.
func (f *forwarder) serveOnce(ctx context.Context, l net.Listener, n *notices, dial dialFor) error {
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	return f.serve(ctx, l, n, dial)
}

func (f *forwarder) relisten(ctx context.Context, s forwardSpec) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return f.guest.Listen(ctx, s.listen.network, s.listen.addr)
}
