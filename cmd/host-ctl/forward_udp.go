package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
)

const (
	// udpIdle ends the flow of a sender from which, and for which, nothing comes.
	udpIdle = 60 * time.Second
	// udpQueue is how many datagrams of a sender wait, as while its socket in the
	// guest is made; more are lost, as they are in a socket's buffer.
	udpQueue = 64
)

// udpForward carries datagrams: each sender has a socket in the guest, so that
// answers find their way back.
type udpForward struct {
	*forwarder
	conn    *net.UDPConn
	target  endpoint
	notices *notices
	idle    time.Duration

	mu    sync.Mutex
	flows map[netip.AddrPort]*udpFlow
}

// udpFlow is what one sender has.
type udpFlow struct {
	in    chan []byte
	timer *time.Timer
	end   context.CancelFunc
}

func newUDPForward(f *forwarder, conn *net.UDPConn, target endpoint, n *notices) *udpForward {
	return &udpForward{forwarder: f, conn: conn, target: target, notices: n, idle: udpIdle, flows: make(map[netip.AddrPort]*udpFlow)}
}

// serve carries datagrams until ctx ends, which closes the socket.
func (u *udpForward) serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { u.conn.Close() })()
	buf := make([]byte, bulk.MaxSegment)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			// It is about a datagram that was sent, such as that its receiver
			// is gone.
			continue
		}
		if flow := u.flow(ctx, from); flow != nil {
			flow.timer.Reset(u.idle)
			select {
			case flow.in <- append([]byte(nil), buf[:n]...):
			default:
			}
		}
	}
}

// flow returns the sender's, a new one if it has none, or nil if there are too
// many.
func (u *udpForward) flow(ctx context.Context, from netip.AddrPort) *udpFlow {
	u.mu.Lock()
	defer u.mu.Unlock()
	if flow := u.flows[from]; flow != nil {
		return flow
	}
	select {
	case u.slots <- struct{}{}:
	default:
		u.notices.say(fmt.Errorf("dropped: %d connections are open (--max-connections)", cap(u.slots)))
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	flow := &udpFlow{in: make(chan []byte, udpQueue), timer: time.AfterFunc(u.idle, cancel), end: cancel}
	u.flows[from] = flow
	u.running.Go(func() {
		defer func() { <-u.slots }()
		u.carry(ctx, flow, from)
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.flows, from)
		flow.timer.Stop()
		flow.end()
	})
	return flow
}

// carry carries the datagrams of one sender, and the answers, until ctx ends or
// the socket in the guest is lost; the sender's next datagram makes a new one.
func (u *udpForward) carry(ctx context.Context, flow *udpFlow, from netip.AddrPort) {
	conn, err := u.dialGuest(ctx, u.target)
	if err != nil {
		if ctx.Err() == nil {
			u.notices.say(err)
		}
		return
	}
	var answers sync.WaitGroup
	defer answers.Wait()
	defer breakOff(conn)
	answers.Go(func() {
		defer flow.end()
		buf := make([]byte, bulk.MaxSegment)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			flow.timer.Reset(u.idle)
			// A sender that has gone is no reason to end: it idles.
			u.conn.WriteToUDPAddrPort(buf[:n], from)
		}
	})
	for {
		select {
		case b := <-flow.in:
			if _, err := conn.Write(b); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
