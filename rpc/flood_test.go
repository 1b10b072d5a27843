package rpc

import (
	"encoding/binary"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/rpc/internal/sock"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// TestRefusedStreamsLeaveNothing opens streams beyond every limit.
func TestRefusedStreamsLeaveNothing(t *testing.T) {
	release := make(chan struct{})
	e := &echo{both: func(st grpc.ServerStream) error { <-release; return nil }}
	synctest.Test(t, func(t *testing.T) {
		release = make(chan struct{})
		s := newEchoServer(e, &ServerConfig{MaxConcurrentStreams: 2, Keepalive: Keepalive{Time: -1}})
		defer s.Stop()
		p := wireServer(t, s)
		const n = 1000
		resets, ends := 0, 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for resets+ends < n {
				h, b, err := p.read()
				if err != nil {
					return
				}
				switch h.Type {
				case wire.FrameReset:
					if code := wire.Code(binary.BigEndian.Uint32(b)); code != wire.CodeRefused {
						t.Errorf("RESET with %v", code)
					}
					resets++
				case wire.FrameEnd:
					ends++
				}
			}
		}()
		for i := range n {
			p.open(uint32(i+1), "/test.Echo/Both", "", 0)
		}
		synctest.Wait()
		close(release)
		<-done
		if ends != 2+2+wire.InitialMaxStreams || resets != n-ends {
			t.Errorf("%d streams ended, %d refused", ends, resets)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for sc := range s.natives {
			sc.mu.Lock()
			defer sc.mu.Unlock()
			if len(sc.streams) != 0 || sc.active != 0 || len(sc.pending) != 0 {
				t.Errorf("%d streams, %d active, %d pending", len(sc.streams), sc.active, len(sc.pending))
			}
		}
	})
}

// TestRapidReset opens streams and resets each at once (CVE-2023-44487), while the
// handlers of the first do not stop for it: no more of them run than may, nothing
// waits for a client that has gone, and another client is served.
func TestRapidReset(t *testing.T) {
	const most, n = 8, 20_000
	var release chan struct{}
	var running, peak atomic.Int32
	e := &echo{both: func(grpc.ServerStream) error {
		peak.Store(max(peak.Load(), running.Add(1)))
		<-release
		running.Add(-1)
		return nil
	}}
	synctest.Test(t, func(t *testing.T) {
		release = make(chan struct{})
		s := newEchoServer(e, &ServerConfig{MaxConcurrentStreams: most, Keepalive: Keepalive{Time: -1}})
		defer s.Stop()
		p := wireServer(t, s)
		go io.Copy(io.Discard, p.nc)
		for id := range uint32(n) {
			p.open(id+1, "/test.Echo/Both", "", 0)
			p.send(wire.AppendReset(nil, id+1, wire.CodeCancelled, ""))
		}
		synctest.Wait()
		for _, sc := range s.testConns() {
			sc.mu.Lock()
			if len(sc.streams) > most || len(sc.pending) != 0 {
				t.Errorf("%d streams are kept, %d wait", len(sc.streams), len(sc.pending))
			}
			sc.mu.Unlock()
		}
		if peak.Load() != most {
			t.Errorf("%d handlers ran, want %d", peak.Load(), most)
		}
		honest := wireServer(t, s)
		honest.open(1, "/test.Echo/Echo", "x", wire.FlagMsg|wire.FlagClose)
		if code := honest.wantEnd(1); code != codes.OK {
			t.Errorf("another client got %v", code)
		}
		close(release)
		synctest.Wait()
		if running.Load() != 0 {
			t.Errorf("%d handlers are left", running.Load())
		}
		_ = honest.nc.Close()
	})
}

func TestFloodsEnd(t *testing.T) {
	for name, frame := range map[string][]byte{
		"PING":            wire.AppendPing(nil, 0, [8]byte{}),
		"PING answers":    wire.AppendPing(nil, wire.FlagAck, [8]byte{}),
		"unknown types":   wire.AppendHeader(nil, wire.Header{Type: 0x80}),
		"tiny CREDIT":     wire.AppendCredit(nil, 0, 1),
		"RESET":           wire.AppendReset(nil, 1, wire.CodeCancelled, ""),
		"empty DATA":      wire.AppendHeader(nil, wire.Header{Type: wire.FrameData, Stream: 2}),
		"GOAWAY":          wire.AppendGoAway(nil, 0, wire.CodeNone, ""),
		"OPEN of nothing": nil,
	} {
		t.Run(name, func(t *testing.T) {
			e := &echo{both: func(st grpc.ServerStream) error { <-st.Context().Done(); return nil }}
			inBubble(t, e, nil, func(t *testing.T, s *Server) {
				p := wireServer(t, s)
				p.open(1, "/test.Echo/Nope", "", wire.FlagClose)
				p.wantEnd(1)
				p.open(2, "/test.Echo/Both", "", 0)
				go io.Copy(io.Discard, p.nc)
				for i := range 30 * maxIdleFrames {
					f := frame
					if f == nil {
						// Calls of no method, each with an answer: work, so allowed.
						if i == maxIdleFrames {
							return
						}
						b := wire.AppendHeader(nil, wire.Header{Type: wire.FrameOpen, Stream: uint32(i + 3), Flags: wire.FlagHead, Length: 5})
						f = append(b, 4, wire.TagMethod, 2, '/', 'x')
					}
					if _, err := p.nc.Write(f); err != nil {
						if i > maxIdleFrames+10 {
							t.Errorf("ended after %d frames", i)
						}
						return
					}
				}
				t.Error("never ended")
			})
		})
	}
}

// TestUnreadAnswersAreBounded has a client that asks and never reads.
func TestUnreadAnswersAreBounded(t *testing.T) {
	inBubble(t, nil, &ServerConfig{Keepalive: Keepalive{Time: 10 * time.Second}}, func(t *testing.T, s *Server) {
		p := wireServer(t, s)
		big := strings.Repeat("x", 1000)
		sent := 0
		for id := uint32(1); ; id++ {
			_ = p.nc.SetWriteDeadline(time.Now().Add(time.Minute))
			f := sock.Frame{Header: wire.Header{Type: wire.FrameOpen, Stream: id, Flags: wire.FlagHead | wire.FlagMsg | wire.FlagClose}, Head: wire.AppendItem(nil, wire.TagMethod, "/test.Echo/Nope"+big[:400])}
			b := f.AppendTo(nil)
			if _, err := p.nc.Write(b); err != nil {
				break
			}
			if sent += len(b); sent > 64<<20 {
				t.Fatal("64 MiB of requests were read although no answer was")
			}
		}
	})
}
