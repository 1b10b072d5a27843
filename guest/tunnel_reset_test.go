package guest

import (
	"context"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
)

// slowStream is a stream whose first message is on its way until sent is closed.
type slowStream struct {
	grpc.ClientStream
	ctx     context.Context
	sending chan struct{} // has one element when the first message is being sent
	sent    chan struct{}
	ended   chan bool // has one element for each message after that: whether it is an end
}

func (s *slowStream) Context() context.Context { return s.ctx }

func (s *slowStream) CloseSend() error { return nil }

func (s *slowStream) RecvMsg(any) error {
	<-s.ctx.Done()
	return s.ctx.Err()
}

func (s *slowStream) SendMsg(m any) error {
	select {
	case s.sending <- struct{}{}:
		<-s.sent
	default:
		s.ended <- m.(*bulk.Frame).Varints[bulk.TunnelEnd] != 0
	}
	return nil
}

// TestResetIsNoEnd breaks connections off while data is on its way: the guest is never
// told that they have ended in order, or a part would look like the whole there.
func TestResetIsNoEnd(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			s := &slowStream{ctx: ctx, sending: make(chan struct{}, 1), sent: make(chan struct{}), ended: make(chan bool, 10)}
			c := newTunnel(s, cancel, &held{most: 1 << 20}, tunnelAddr{}, tunnelAddr{}, false)
			if _, err := c.Write([]byte("a part")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			c.Reset()
			close(s.sent)
			synctest.Wait()
			for len(s.ended) > 0 {
				if <-s.ended {
					t.Error("a connection that was broken off has ended in order")
				}
			}
		})
	}
}
