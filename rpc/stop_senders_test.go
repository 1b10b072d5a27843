package rpc

import (
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// TestStopWithSenders: a server is stopped while handlers send what their client does
// not read. Each is told, and (under the race detector) nothing of a payload is looked
// at while its sender takes it back.
func TestStopWithSenders(t *testing.T) {
	for range 30 {
		var begun, ended atomic.Int32
		e := &echo{both: func(st grpc.ServerStream) error {
			begun.Add(1)
			defer ended.Add(1)
			for {
				if err := st.SendMsg(wrapperspb.Bytes(make([]byte, 256<<10))); err != nil {
					return err
				}
			}
		}}
		s := newEchoServer(e, nil)
		p := &wirePeer{t, mustDial(t, serveUnix(t, s))}
		p.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: 8 << 20, ConnWindow: 64 << 20}))
		for id := range uint32(8) {
			p.open(id+1, "/test.Echo/Both", "", 0)
		}
		// Not all need begin: a server may leave unread what comes while much waits.
		wait.For(t, "a handler sends", func() bool { return begun.Load() > 0 })
		s.Stop()
		wait.For(t, "the handlers have ended", func() bool { return begun.Load() == ended.Load() })
	}
}
