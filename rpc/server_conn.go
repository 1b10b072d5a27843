package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

const (
	// fullAnswers is how many calls are answered, of those that one read has
	// brought, before the client gets the answers: then it need not wait for all
	// of them.
	fullAnswers = 32
	// firstAnswers is how many it gets before the others are made: then both sides
	// work at the same time, rather than one after the other. That is worth a write of its own
	// if at least manyMore times as much is left of the read.
	firstAnswers = 3
	manyMore     = 2

	maxMethods    = 1024 // numbers a client may give to methods
	maxMethodName = 1024 // bytes
	// lingerTime is how long the server waits for the client to close a connection
	// that has come to its end.
	lingerTime = time.Second
	// serverUnread is how long a connection stays unread while the handler that reads
	// it is at work.
	serverUnread = inlineTick
)

var (
	errCanceled = context.Canceled
	// errReaderMoved ends a read loop that another goroutine continues.
	errReaderMoved = errors.New("another goroutine reads")
)

// serverConn is a native connection of a server.
type serverConn struct {
	conn
	srv        *Server
	arrived    *arrival
	maxStreams int             // whose handlers run
	maxRecv    int             // bytes of one message
	base       context.Context // of all calls: peer, what stats handlers tag
	md         metadata.MD     // of calls that bring none
	inline     inlineRun
	spins      bool
	// Owned by the goroutine that reads: calls in the last read, and reads in a row with
	// one call at most.
	batchOpens int
	soleReads  int
	fed        int       // reads in a row with one call alone, which had begun before
	ran        []*method // whose handlers ran inline since the last check of locks
	locks      lockCheck

	// Guarded by mu.
	methods []*method       // by number
	named   int64           // bytes of them that the client is charged for
	active  int             // calls given to handlers
	calls   uint64          // calls ever opened
	pending []*serverStream // calls that wait for others to end
	leaving bool            // GOAWAY was sent
	last    uint32          // in that GOAWAY
	timers  []*time.Timer
	lingers bool
	// The goroutine that reads waits until the client has read some more.
	readerWaits bool
	readerRoom  waiter

	handlers sync.WaitGroup // that run
}

func newServerConn(srv *Server, nc net.Conn, p *peer.Peer, a *arrival, name string) *serverConn {
	cfg := &srv.cfg
	sc := &serverConn{srv: srv, arrived: a, maxStreams: int(cfg.MaxConcurrentStreams), maxRecv: cfg.MaxRecvMsgSize}
	streamWin, connWin := cfg.StreamWindow, cfg.ConnWindow
	b := &srv.budget
	if a.stranger {
		sc.maxStreams, sc.maxRecv = min(sc.maxStreams, MaxStrangerStreams), min(sc.maxRecv, MaxStrangerRecvSize)
		streamWin, connWin = wire.InitialStreamWindow, min(connWin, MaxStrangerConnWindow)
		b = &srv.strangeBudget
	}
	sc.share.join(b, name)
	sc.init(nc, streamWin, connWin)
	sc.role = sc
	sc.unreadLimit, sc.reading = serverUnread, true
	sc.streams = make(map[uint32]*stream)
	sc.base = srv.stats.connBegin(peer.NewContext(srv.ctx, p), nc, false)
	sc.spins = srv.cfg.Spin > 0
	sc.w.Greet(wire.AppendPreface(nil, wire.Hello{
		Info: wire.Info(cfg.Hello), StreamWindow: streamWin, ConnWindow: connWin,
		MaxStreams: uint32(sc.maxStreams), MaxHeader: cfg.MaxHeaderBytes,
	}))
	return sc
}

// serve reads the connection until it ends. begun holds what was read of it. A handler
// may end this goroutine, but not before the connection has ended.
func (sc *serverConn) serve(begun []byte) {
	defer func() { <-sc.closed }()
	sc.rd.Feed(begun)
	sc.startTimers()
	sc.readLoop()
}

func (sc *serverConn) hasRoom() {
	if sc.readerWaits {
		sc.readerWaits = false
		sc.wake(&sc.readerRoom, true)
	}
}

func (sc *serverConn) hello(h wire.Hello) {
	sc.md = metadata.MD{}
	if h.Authority != "" {
		sc.md[":authority"] = []string{h.Authority}
	}
	if h.UserAgent != "" {
		sc.md["user-agent"] = []string{h.UserAgent}
	}
}

// headerLimit returns how much metadata the client takes.
func (sc *serverConn) headerLimit() int {
	if n := sc.peer.MaxHeader; n > 0 {
		return min(n, maxMetadata)
	}
	return maxMetadata
}

func (sc *serverConn) reset(s *stream, code wire.Code, _ string) {
	ss := s.sv
	err := context.Canceled
	if code == wire.CodeDeadline {
		err = context.DeadlineExceeded
	}
	ss.over(status.FromContextError(err).Err(), false)
	ss.ctx.cancel(err)
}

func (sc *serverConn) lost(s *stream, err error) {
	s.stop(err, true)
	if ss := s.sv; !ss.started { // it waits for its handler, and gets none
		sc.share.free(ss.charged)
		ss.charged = 0
	}
	s.sv.ctx.cancel(context.Canceled)
}

func (sc *serverConn) ending(error) {}

func (sc *serverConn) failed(err error) {
	sc.mu.Lock()
	sc.hasRoom()
	sc.disarm()
	sc.pending = nil
	sc.share.free(sc.named)
	sc.named = 0
	for _, t := range sc.timers {
		t.Stop()
	}
	sc.mu.Unlock()
	sc.srv.stats.connEnd(sc.base, false)
	sc.srv.connEnded(sc, err)
}

func (sc *serverConn) frame(h wire.Header, p []byte, own *[]byte) error {
	switch h.Type {
	case wire.FrameOpen:
		return sc.open(h, p, own)
	case wire.FrameGoAway:
		buf.Pool.Put(own)
		return sc.clientLeaves(wire.Code(binary.BigEndian.Uint32(p[4:])), string(p[8:]))
	}
	buf.Pool.Put(own)
	return wire.Errorf(wire.CodeProtocol, "%v from a client", h.Type)
}

// clientLeaves handles a GOAWAY. Without a code it says no more than that the client
// will close the connection.
func (sc *serverConn) clientLeaves(code wire.Code, text string) error {
	if code != wire.CodeNone {
		return &goneError{code, wire.ValidText(text)}
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.idleFrame("GOAWAY")
}
