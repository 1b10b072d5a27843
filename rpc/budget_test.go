package rpc

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// TestShares lets connections of several peers take as much as they get, and give some
// of it back, in any order. There is always something left for another, and nothing in
// the end.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 1 << 20
		b := &budget{limit: limit}
		n := rapid.IntRange(1, 12).Draw(t, "connections")
		shares := make([]share, n)
		for i := range shares {
			name := ""
			if k := rapid.IntRange(0, 4).Draw(t, "peer"); k > 0 { // or none
				name = fmt.Sprint("peer ", k)
			}
			shares[i].join(b, name)
		}
		held := make([]int64, n)
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			i := rapid.IntRange(0, n-1).Draw(t, "connection")
			k := int64(rapid.IntRange(1, limit/4).Draw(t, "bytes"))
			if rapid.Bool().Draw(t, "hold") {
				for shares[i].hold(k, 1) {
					held[i] += k
				}
			} else if k = min(k, held[i]); k > 0 {
				shares[i].free(k)
				held[i] -= k
			}
			var next share
			next.join(b, "another")
			if left := next.room(); left <= 0 {
				t.Fatalf("nothing is left for another: %d", left)
			}
			next.leave()
		}
		for i := range shares {
			shares[i].free(held[i])
			shares[i].leave()
		}
		if b.held.Load() != 0 || len(b.peers) != 0 {
			t.Errorf("%d bytes and %d peers are left", b.held.Load(), len(b.peers))
		}
	})
}

// TestFewCannotSpendTheBudget: connections that hold all they may leave others what
// they need.
func TestFewCannotSpendTheBudget(t *testing.T) {
	const budget = 8 << 20
	e := &echo{both: func(st grpc.ServerStream) error { <-st.Context().Done(); return nil }}
	inBubble(t, e, &ServerConfig{Budget: budget, ConnWindow: budget, StreamWindow: wire.InitialStreamWindow, MaxRecvMsgSize: 1 << 20}, func(t *testing.T, s *Server) {
		msg := make([]byte, 60<<10)
		var hogs []*wirePeer
		for range 3 {
			p := wireServer(t, s)
			hogs = append(hogs, p)
			go io.Copy(io.Discard, p.nc)
			for id := uint32(1); id <= budget/wire.InitialStreamWindow; id++ {
				p.open(id, "/test.Echo/Both", "", 0)
				for range 4 {
					p.frame(wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg, Stream: id}, msg...)
				}
			}
		}
		synctest.Wait()
		if held := s.budget.held.Load(); held < budget/2 || held > budget*4/5 {
			t.Errorf("three connections hold %d of %d bytes", held, int64(budget))
		}
		c := NewClient(servePipe(t, s), nil)
		defer c.Close()
		for range 5 {
			if err := c.Invoke(t.Context(), "/test.Echo/Echo", wrapperspb.Bytes(make([]byte, 500<<10)), new(wrapperspb.BytesValue)); err != nil {
				t.Errorf("an honest call: %v", err)
			}
		}
		for _, p := range hogs {
			_ = p.nc.Close()
		}
		synctest.Wait()
		if held := s.budget.held.Load(); held != 0 {
			t.Errorf("%d bytes are held for nobody", held)
		}
	})
}

// TestCallsCountForTheBudget: a call without a message costs what it makes the server
// hold, so that calls that only wait leave room for others.
func TestCallsCountForTheBudget(t *testing.T) {
	const budget, most = 4 << 20, 10_000
	e := &echo{both: func(st grpc.ServerStream) error { <-st.Context().Done(); return nil }}
	inBubble(t, e, &ServerConfig{Budget: budget, MaxConcurrentStreams: most, MaxRecvMsgSize: 1 << 20}, func(t *testing.T, s *Server) {
		refused := make(chan int)
		var hogs []*wirePeer
		for range 3 {
			p := wireServer(t, s)
			hogs = append(hogs, p)
			go func() {
				n := 0
				for {
					h, b, err := p.read()
					if err != nil {
						refused <- n
						return
					}
					if h.Type == wire.FrameReset && wire.Code(b[3]) == wire.CodeRefused {
						n++
					}
				}
			}()
			for id := range uint32(1000) {
				p.open(id+1, "/test.Echo/Both", "", 0)
			}
		}
		synctest.Wait()
		if held := s.budget.held.Load(); held > budget*4/5 {
			t.Errorf("calls hold %d of %d bytes", held, budget)
		}
		c := NewClient(servePipe(t, s), nil)
		defer c.Close()
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			st, err := openBoth(ctx, c)
			if err != nil {
				t.Errorf("an honest call: %v", err)
			} else if err := st.SendMsg(value("x")); err != nil {
				t.Errorf("an honest call: %v", err)
			}
			cancel()
		}
		for _, p := range hogs {
			_ = p.nc.Close()
			if n := <-refused; n == 0 || n == 1000 {
				t.Errorf("%d of 1000 calls were refused", n)
			}
		}
		synctest.Wait()
		if held := s.budget.held.Load(); held != 0 {
			t.Errorf("%d bytes are held for nobody", held)
		}
	})
}

// TestRefusedMessagesAreNotHeld goes beyond the budget again and again: what was
// refused counts no longer.
func TestRefusedMessagesAreNotHeld(t *testing.T) {
	const budget = 1 << 20
	e := &echo{both: func(st grpc.ServerStream) error { <-st.Context().Done(); return nil }}
	inBubble(t, e, &ServerConfig{Budget: budget, MaxRecvMsgSize: 256 << 10}, func(t *testing.T, s *Server) {
		for range 10 {
			p := wireServer(t, s)
			resets := make(chan int)
			go func() {
				n := 0
				for {
					h, b, err := p.read()
					if err != nil {
						resets <- n
						return
					}
					if h.Type == wire.FrameReset && wire.Code(b[3]) == wire.CodeResource {
						n++
					}
				}
			}()
			for id := uint32(1); id <= 20; id++ {
				p.open(id, "/test.Echo/Both", "", 0)
				for range 3 {
					p.frame(wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg, Stream: id}, make([]byte, 60<<10)...)
				}
			}
			synctest.Wait()
			_ = p.nc.Close()
			if n := <-resets; n == 0 {
				t.Error("no message was refused")
			}
			synctest.Wait()
			if held := s.budget.held.Load(); held != 0 {
				t.Fatalf("%d bytes are held for nobody", held)
			}
		}
		c := NewClient(servePipe(t, s), nil)
		defer c.Close()
		if err := c.Invoke(t.Context(), "/test.Echo/Echo", wrapperspb.Bytes(make([]byte, 200<<10)), new(wrapperspb.BytesValue)); err != nil {
			t.Errorf("a call afterwards: %v", err)
		}
	})
}

// TestServerEndsWhatIsLate: a client that leaves its deadlines to the server hears of
// them, of calls whose handler runs, of those that wait for one, and of those that come
// too late.
func TestServerEndsWhatIsLate(t *testing.T) {
	e := &echo{both: func(st grpc.ServerStream) error { <-st.Context().Done(); time.Sleep(time.Hour); return nil }}
	inBubble(t, e, &ServerConfig{MaxConcurrentStreams: 1, Keepalive: Keepalive{Time: -1}}, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		open := func(id uint32, timeout time.Duration) {
			head := wire.AppendUintItem(wire.AppendItem(nil, wire.TagMethod, "/test.Echo/Both"), wire.TagTimeout, uint64(timeout))
			p.frame(wire.Header{Type: wire.FrameOpen, Flags: wire.FlagHead, Stream: id}, append([]byte{byte(len(head))}, head...)...)
		}
		start := time.Now()
		open(1, 3*time.Second)
		open(2, 2*time.Second)
		for i, id := range []uint32{2, 1} {
			h, b := p.want(wire.FrameReset)
			if h.Stream != id || wire.Code(b[3]) != wire.CodeDeadline || time.Since(start) != time.Duration(i+2)*time.Second {
				t.Errorf("RESET of stream %d with %x after %v", h.Stream, b, time.Since(start))
			}
		}
		open(3, 0)
		if code := p.wantEnd(3); code != codes.DeadlineExceeded {
			t.Errorf("a call without time: %v", code)
		}
	})
}

// TestFineCuts: a message may be cut into pieces of one byte, whatever its length.
func TestFineCuts(t *testing.T) {
	for _, n := range []int{9 << 10, shortMessage, shortMessage + 1, longMessage + 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			inBubble(t, &echo{}, &ServerConfig{StreamWindow: wire.InitialStreamWindow}, func(t *testing.T, s *Server) {
				p := wireServer(t, s)
				credit := make(chan int64, 1000)
				ended := make(chan codes.Code, 1)
				go func() {
					for {
						h, b, err := p.read()
						switch {
						case err != nil:
							return
						case h.Type == wire.FrameCredit && h.Stream == 1:
							credit <- int64(b[0])<<24 | int64(b[1])<<16 | int64(b[2])<<8 | int64(b[3])
						case h.Type == wire.FrameEnd:
							head, _, _ := wire.SplitHead(h, b)
							e, _ := wire.ParseEnd(head)
							ended <- e.Code
						}
					}
				}()
				msg := value(string(make([]byte, n-4)))
				raw, err := Codec().Marshal(msg)
				if err != nil {
					t.Fatal(err)
				}
				data := raw.Materialize()
				p.open(1, "/test.Echo/Echo", "", 0)
				left := int64(wire.InitialStreamWindow)
				for i := range data {
					for left < wire.FrameCost+1 {
						select {
						case k := <-credit:
							left += k
						case <-time.After(5 * time.Second):
							t.Fatalf("no credit after %d of %d pieces", i, len(data))
						}
					}
					left -= wire.FrameCost + 1
					switch h := (wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg | wire.FlagMore, Stream: 1}); i {
					case 0:
						h.Flags |= wire.FlagHead
						item := wire.AppendUintItem(nil, wire.TagLength, uint64(len(data)))
						p.frame(h, append(append([]byte{byte(len(item))}, item...), data[0])...)
					case len(data) - 1:
						h.Flags = wire.FlagMsg | wire.FlagClose
						p.frame(h, data[i])
					default:
						p.frame(h, data[i])
					}
				}
				if code := <-ended; code != codes.OK {
					t.Errorf("ended with %v", code)
				}
			})
		})
	}
}

// TestRelieved: after a burst of calls the program is told within seconds, once, that
// their memory is garbage.
func TestRelieved(t *testing.T) {
	const calls = 2 * reliefFrom / callCost
	e := &echo{both: func(st grpc.ServerStream) error { <-st.Context().Done(); return nil }}
	relieved := make(chan int64, 10)
	var s *Server
	s = newEchoServer(e, &ServerConfig{MaxConcurrentStreams: calls, Relieved: func() { relieved <- s.budget.held.Load() }})
	p := &wirePeer{t, mustDial(t, serveUnix(t, s))}
	p.hello()
	p.greeted()
	go io.Copy(io.Discard, p.nc)
	for id := range uint32(calls) {
		p.open(id+1, "/test.Echo/Both", "", 0)
	}
	wait.For(t, "the calls are held", func() bool { return s.budget.held.Load() > reliefFrom })
	_ = p.nc.Close()
	select {
	case held := <-relieved:
		if held > reliefFrom/4 {
			t.Errorf("told while %d bytes are held", held)
		}
	case <-time.After(wait.Limit):
		t.Fatal("not told")
	}
	if len(relieved) > 0 {
		t.Error("told more than once")
	}
}

// TestNamesCountForTheBudget: a connection remembers the names of methods that the
// server does not have, and is charged for them; what is named again is not charged
// again.
func TestNamesCountForTheBudget(t *testing.T) {
	const budget = 1 << 20
	inBubble(t, &echo{}, &ServerConfig{Budget: budget, MaxRecvMsgSize: 64 << 10}, func(t *testing.T, s *Server) {
		name := func(p *wirePeer, id uint32, number uint16, method string) {
			f := sock.Frame{Header: wire.Header{Type: wire.FrameOpen, Flags: wire.FlagHead | wire.FlagMsg | wire.FlagClose, Method: number, Stream: id}, Head: wire.AppendItem(nil, wire.TagMethod, method)}
			_, _ = p.nc.Write(f.AppendTo(nil)) // the server may have closed
		}
		var peers []*wirePeer
		for range 4 {
			p := wireServer(t, s)
			peers = append(peers, p)
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				io.Copy(io.Discard, p.nc)
			}()
			for i := range uint32(1000) {
				name(p, 2*i+1, uint16(i+1), fmt.Sprintf("/%01000d/x", i))
				select {
				case <-closed:
				default:
					continue
				}
				break
			}
		}
		synctest.Wait()
		if held := s.budget.held.Load(); held < budget/2 || held > budget*9/10 {
			t.Errorf("the names hold %d of %d bytes", held, budget)
		}
		c := NewClient(servePipe(t, s), nil)
		defer c.Close()
		if err := c.Invoke(t.Context(), "/test.Echo/Echo", value("x"), new(wrapperspb.BytesValue)); err != nil {
			t.Errorf("an honest call: %v", err)
		}
		for _, p := range peers {
			_ = p.nc.Close()
		}
		synctest.Wait()
		if held := s.budget.held.Load(); held != 0 {
			t.Errorf("%d bytes are held for nobody", held)
		}
		p := wireServer(t, s)
		go io.Copy(io.Discard, p.nc)
		for i := range uint32(100) {
			name(p, 2*i+1, 1, fmt.Sprintf("/%01000d/x", i))
		}
		name(p, 1001, 2, "/test.Echo/Echo")
		synctest.Wait()
		if held := s.budget.held.Load(); held < 1000 || held > 2000 {
			t.Errorf("%d bytes are held for one name", held)
		}
	})
}
