package rpc

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

var downDesc = &grpc.StreamDesc{StreamName: "Down", ServerStreams: true}

// A firstUse is what a program may do first with a new call.
type firstUse struct {
	name string
	do   func(grpc.ClientStream) error
}

var firstUses = []firstUse{
	{"SendMsg", func(st grpc.ClientStream) error { return st.SendMsg(value("x")) }},
	{"RecvMsg", func(st grpc.ClientStream) error { return st.RecvMsg(new(wrapperspb.BytesValue)) }},
	{"Header", func(st grpc.ClientStream) error { _, err := st.Header(); return err }},
	{"CloseSend", func(st grpc.ClientStream) error { return st.CloseSend() }},
}

// orders are the orders of three events.
var orders = [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}

// twoUsers are the pairs that gRPC allows at the same time.
func twoUsers() (pairs [][2]firstUse) {
	for i, a := range firstUses {
		for _, b := range firstUses[i+1:] {
			if a.name != "SendMsg" || b.name != "CloseSend" {
				pairs = append(pairs, [2]firstUse{a, b})
			}
		}
	}
	return pairs
}

// TestTwoUsersOfANewCall interleaves two users of a call that is not open yet, while
// the server allows one stream and that is taken, with everything that ends the wait.
// Every use returns, and the call is opened once at most.
func TestTwoUsersOfANewCall(t *testing.T) {
	ends := []struct {
		name string
		end  func(*newCall)
	}{
		{"a place", func(n *newCall) { n.p.frame(wire.Header{Type: wire.FrameEnd, Stream: 1, Flags: wire.FlagMsg}) }},
		{"cancel", func(n *newCall) { n.cancel() }},
		{"deadline", func(*newCall) { time.Sleep(time.Minute) }},
		{"GOAWAY", func(n *newCall) { n.p.send(wire.AppendGoAway(nil, 1, wire.CodeNone, "moving")) }},
		{"GOAWAY with a code", func(n *newCall) { n.p.send(wire.AppendGoAway(nil, 1, wire.CodeFlood, "enough")) }},
		{"the end of the connection", func(n *newCall) { n.p.nc.Close() }},
		{"Close", func(n *newCall) { n.c.Close() }},
	}
	for _, users := range twoUsers() {
		for _, e := range ends {
			t.Run(users[0].name+", "+users[1].name+", "+e.name, func(t *testing.T) {
				for _, order := range orders {
					synctest.Test(t, func(t *testing.T) {
						n := beginNewCall(t)
						returned := make(chan struct{}, 2)
						use := func(u firstUse) { go func() { _ = u.do(n.st); returned <- struct{}{} }() }
						steps := [3]func(){func() { use(users[0]) }, func() { use(users[1]) }, func() { e.end(n) }}
						for _, i := range order {
							steps[i]()
							synctest.Wait()
						}
						for left := 2; left > 0; left-- {
							select {
							case <-returned:
							case <-time.After(time.Hour):
								t.Errorf("in order %v %d of 2 hang", order, left)
								left = 0
							}
						}
						if opens := n.finish(); opens > 1 {
							t.Errorf("in order %v: %d OPENs", order, opens)
						}
					})
				}
			})
		}
	}
}

// newCall is a call that is not open yet, of a client whose one place is taken.
type newCall struct {
	c      *Client
	p      *wirePeer
	st     grpc.ClientStream
	cancel context.CancelFunc
	busy   chan error
	opens  chan int
}

func beginNewCall(t *testing.T) *newCall {
	t.Helper()
	n := &newCall{busy: make(chan error, 1), opens: make(chan int, 1)}
	n.c, n.p = wireClient(t, &ClientConfig{Keepalive: Keepalive{Time: -1}})
	go func() { n.busy <- n.c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)) }()
	n.p.greeted()
	n.p.want(wire.FrameOpen)
	n.p.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow, MaxStreams: 1}))
	synctest.Wait()
	go n.answer()
	var ctx context.Context
	ctx, n.cancel = context.WithTimeout(t.Context(), 30*time.Second)
	var err error
	if n.st, err = n.c.NewStream(ctx, downDesc, "/test.Echo/Down"); err != nil {
		t.Fatal(err)
	}
	return n
}

// answer ends every call that is opened, until the connection ends.
func (n *newCall) answer() {
	opens := 0
	for {
		h, _, err := n.p.read()
		if err != nil {
			n.opens <- opens
			return
		}
		if h.Type == wire.FrameOpen {
			opens++
			_, _ = n.p.nc.Write(wire.AppendHeader(nil, wire.Header{Type: wire.FrameEnd, Stream: h.Stream}))
		}
	}
}

// finish ends everything and returns how many OPENs came after the first call's.
func (n *newCall) finish() int {
	n.cancel()
	n.c.Close()
	n.p.nc.Close()
	<-n.busy
	return <-n.opens
}

// TestManyCallsOpenOnce makes 3,000 calls from two goroutines each beside a limit of
// few streams: each is one OPEN.
func TestManyCallsOpenOnce(t *testing.T) {
	const calls, most = 3000, 4
	synctest.Test(t, func(t *testing.T) {
		c, p := wireClient(t, &ClientConfig{Keepalive: Keepalive{Time: -1}})
		defer c.Close()
		n := &newCall{c: c, p: p, opens: make(chan int, 1)}
		errs := make(chan error, 2*calls)
		for range calls {
			go func() {
				st, err := c.NewStream(t.Context(), downDesc, "/test.Echo/Down")
				if err != nil {
					t.Error(err)
					return
				}
				go func() {
					err := st.RecvMsg(new(wrapperspb.BytesValue))
					if err != io.EOF {
						t.Errorf("RecvMsg: %v", err)
					}
					errs <- nil
				}()
				if err := st.SendMsg(value("x")); err != nil && err != io.EOF {
					t.Errorf("SendMsg: %v", err)
				}
				errs <- nil
			}()
		}
		p.greeted()
		p.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow, MaxStreams: most}))
		go n.answer()
		for range 2 * calls {
			<-errs
		}
		c.Close()
		if opens := <-n.opens; opens != calls {
			t.Errorf("%d OPENs of %d calls", opens, calls)
		}
	})
}

// TestWaitersForAPlaceAreWoken: calls that wait for a stream end with the connection,
// and go on elsewhere after a GOAWAY.
func TestWaitersForAPlaceAreWoken(t *testing.T) {
	for _, how := range []string{"cut", "GOAWAY"} {
		synctest.Test(t, func(t *testing.T) {
			peers := make(chan *wirePeer, 4)
			c := NewClient(func(context.Context) (net.Conn, error) {
				a, b := net.Pipe()
				peers <- &wirePeer{t, b}
				return a, nil
			}, &ClientConfig{Keepalive: Keepalive{Time: -1}})
			defer c.Close()
			got := make(chan error, 2)
			invoke := func() {
				got <- c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue))
			}
			go invoke()
			p := <-peers
			p.greeted()
			p.want(wire.FrameOpen)
			p.send(wire.AppendPreface(nil, wire.Hello{StreamWindow: wire.InitialStreamWindow, ConnWindow: wire.InitialConnWindow, MaxStreams: 1}))
			synctest.Wait()
			go invoke()
			synctest.Wait()
			if how == "cut" {
				p.nc.Close()
				if err := <-got; status.Code(err) != codes.Unavailable {
					t.Errorf("the call in flight: %v", err)
				}
			} else {
				p.send(wire.AppendGoAway(nil, 1, wire.CodeNone, "moving"))
			}
			q := <-peers // the call that waited is made again
			q.greeted()
			q.want(wire.FrameOpen)
			q.hello()
			q.frame(wire.Header{Type: wire.FrameEnd, Stream: 1, Flags: wire.FlagMsg})
			if err := <-got; err != nil {
				t.Errorf("%s: the call that waited: %v", how, err)
			}
			if how == "GOAWAY" {
				p.frame(wire.Header{Type: wire.FrameEnd, Stream: 1, Flags: wire.FlagMsg})
				if err := <-got; err != nil {
					t.Errorf("the call in flight: %v", err)
				}
			}
			_ = q.nc.Close()
			_ = p.nc.Close()
		})
	}
}
