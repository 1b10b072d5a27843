package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// Server serves gRPC services on the native wire and on HTTP/2, on the same
// listeners. Register services before the first Serve; after that all methods may
// be called concurrently.
//
// It serves any net.Conn; deadlines of the connection need not work. On Linux a
// *net.UnixConn, a *net.TCPConn and a [RawConn] are read and written through their
// descriptors, and all others by Read and Write.
type Server struct {
	cfg         ServerConfig
	tls         *tls.Config
	log         *slog.Logger
	stats       statsHandlers
	ctx         context.Context // ends with Stop
	cancel      context.CancelFunc
	budget      budget
	faults      seldom
	inlineWatch inlineWatch

	registry
	http2 http2Server
	// The same for strangers: other limits, and what they hold counts by itself.
	strangeHTTP2  http2Server
	strangeBudget budget

	mu        sync.Mutex
	serving   bool // registering is over
	stopping  bool
	lis       map[net.Listener]struct{}
	natives   map[*serverConn]struct{}
	https     map[*http2Conn]struct{} // of clients that are known
	early     []*arrival              // in their handshake, the oldest first
	peers     map[string]*peerArrivals
	late      *time.Timer
	lateArmed bool
	conns     int        // all of them
	drained   *sync.Cond // conns has changed
	// Connections of strangers: all, and those past their handshake, the oldest
	// first.
	strange   int
	strangers []settler
}

var _ reflection.GRPCServer = (*Server)(nil)

// NewServer returns a server with no services. A nil cfg means the defaults.
func NewServer(cfg *ServerConfig) *Server {
	s := &Server{
		lis:     make(map[net.Listener]struct{}),
		natives: make(map[*serverConn]struct{}),
		https:   make(map[*http2Conn]struct{}),
		peers:   make(map[string]*peerArrivals),
	}
	if cfg != nil {
		s.cfg = *cfg
	}
	s.http2 = newHTTP2Server(s.cfg.setDefaults(), false)
	if s.cfg.Known != nil {
		s.strangeHTTP2 = newHTTP2Server(&s.cfg, true)
	}
	if s.cfg.MaxConcurrentStreams == 0 {
		s.cfg.MaxConcurrentStreams = DefaultMaxConcurrentStreams
	}
	s.log = s.cfg.Logger
	s.stats = slices.Clone(s.cfg.StatsHandlers)
	s.budget.limit, s.strangeBudget.limit = s.cfg.Budget, min(s.cfg.Budget, MaxStrangerBudget)
	s.budget.relieved, s.strangeBudget.relieved = s.cfg.Relieved, s.cfg.Relieved
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.drained = sync.NewCond(&s.mu)
	if s.cfg.TLS != nil {
		s.tls = withProtocols(s.cfg.TLS)
	}
	if h := s.cfg.UnknownServiceHandler; h != nil {
		s.unknown = &method{stream: &grpc.StreamDesc{ClientStreams: true, ServerStreams: true, Handler: func(srv any, st grpc.ServerStream) error {
			return h(srv, st)
		}}}
	}
	return s
}

// withProtocols returns a copy of cfg that agrees on either wire.
func withProtocols(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.NextProtos = append(slices.Clone(cfg.NextProtos), alpn, "h2")
	if get := cfg.GetConfigForClient; get != nil {
		cfg.GetConfigForClient = func(hi *tls.ClientHelloInfo) (*tls.Config, error) {
			own, err := get(hi)
			if own != nil {
				own = withProtocols(own)
			}
			return own, err
		}
	}
	return cfg
}

// RegisterService implements grpc.ServiceRegistrar. It panics after the first
// Serve, and if impl does not implement the service.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving {
		panic("rpc: RegisterService of " + desc.ServiceName + " after Serve")
	}
	s.add(desc, impl)
	for _, h := range s.http2Servers() {
		h.RegisterService(forHTTP2(desc), impl)
	}
}

// GetServiceInfo implements reflection.ServiceInfoProvider.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info()
}

// ErrServerStopped is returned by Serve after Stop or GracefulStop was called.
var ErrServerStopped = grpc.ErrServerStopped

// begin ends the time to register services. It reports false after Stop.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	if !s.serving {
		s.serving = true
		for _, h := range s.http2Servers() {
			go func() { _ = h.Serve(h.lis) }()
		}
	}
	return true
}

// Serve accepts connections on lis and serves them until Stop, GracefulStop, or
// an error of lis. It returns nil if Stop or GracefulStop ended it, and
// ErrServerStopped if they were called before. It closes lis. Several listeners
// may be served at once.
func (s *Server) Serve(lis net.Listener) error {
	defer lis.Close()
	if !s.begin() {
		return ErrServerStopped
	}
	s.mu.Lock()
	s.lis[lis] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.lis, lis)
		s.mu.Unlock()
	}()
	var wait time.Duration
	for {
		nc, err := lis.Accept()
		if err != nil {
			s.mu.Lock()
			stopping := s.stopping
			s.mu.Unlock()
			if stopping {
				return nil
			}
			if te, ok := err.(interface{ Temporary() bool }); ok && te.Temporary() {
				wait = min(max(2*wait, 5*time.Millisecond), time.Second)
				s.log.Warn("rpc: accept failed, trying again", "error", err, "wait", wait)
				select {
				case <-time.After(wait):
				case <-s.ctx.Done():
				}
				continue
			}
			return fmt.Errorf("accept on %v: %w", lis.Addr(), err)
		}
		wait = 0
		go s.handle(nc)
	}
}

// ServeConn serves one connection and returns when it has ended; over HTTP/2, when
// it was handed on. It closes nc.
func (s *Server) ServeConn(nc net.Conn) {
	if !s.begin() {
		_ = nc.Close()
		return
	}
	// Handlers run on the goroutine that reads. They may end it, or leave it locked to
	// its thread, which must not happen to the caller's.
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.handle(nc)
	}()
	<-done
}

// handle serves a connection.
func (s *Server) handle(nc net.Conn) {
	info := authInfoOf(nc)
	a := &arrival{nc: nc, stranger: s.isStranger(info), deadline: time.Now().Add(s.cfg.HandshakeTimeout)}
	name := s.peerName(info)
	s.mu.Lock()
	if s.stopping || !s.arrive(a, name) {
		s.mu.Unlock()
		_ = nc.Close()
		return
	}
	s.mu.Unlock()
	h, err := s.handshake(a)
	stranger := a.stranger
	if err == nil && h.info != nil {
		// TLS may have told who it is.
		stranger = s.isStranger(h.info)
	}
	s.mu.Lock()
	if !s.introduced(a) && err == nil {
		err = errLate
	}
	if stranger != a.stranger {
		s.strange--
		if stranger {
			s.strange += 2
		}
		a.stranger = stranger
	}
	stopping := s.stopping
	s.mu.Unlock()
	if err != nil || stopping {
		if err != nil && !errors.Is(err, io.EOF) && !stopping {
			s.log.Debug("rpc: handshake failed", "peer", nc.RemoteAddr(), "error", err)
		}
		_ = nc.Close()
		s.gone(a)
		return
	}
	if h.proto == protoHTTP2 {
		s.handleHTTP2(h, a)
		return
	}
	sc := newServerConn(s, h.Conn, h.peer(), a, name)
	s.mu.Lock()
	s.natives[sc] = struct{}{}
	stopping = s.stopping
	s.mu.Unlock()
	if stopping {
		sc.goAway("the server is stopping")
	}
	if a.stranger {
		s.settled(nc, func() { sc.fail(errTooManyStrangers) })
	}
	if !s.admit(a, h.info, func() { sc.fail(errEvicted) }) {
		sc.fail(errNotAdmitted)
	}
	sc.serve(h.begun)
}

// errLate ends a connection whose handshake was done just when it was ended.
var errLate = errors.New("the handshake was ended before it was done")

// errTooManyStrangers ends the oldest connection of a client that is not known.
var errTooManyStrangers = wire.Errorf(wire.CodeResource, "the server has %d connections of clients that it does not know already, and this is the oldest", MaxStrangers)

// handleHTTP2 hands a connection to the stock server.
func (s *Server) handleHTTP2(h *handshaken, a *arrival) {
	c := &http2Conn{handshaken: h}
	c.ended = func() {
		s.forgetHTTP2(c)
		s.gone(a)
	}
	end := func(why error) func() {
		return func() {
			s.fault(a.nc, why)
			_ = c.Close()
		}
	}
	if !a.stranger {
		s.keepHTTP2(c)
	}
	switch {
	case a.stranger:
		s.settled(a.nc, end(errTooManyStrangers))
		s.strangeHTTP2.lis.hand(c)
	case !s.admit(a, h.info, end(errEvicted)):
		end(errNotAdmitted)()
	default:
		s.http2.lis.hand(c)
	}
}

// fault logs that a connection was ended for what its client does, but not so often
// that a client can fill the log.
func (s *Server) fault(nc net.Conn, err error) {
	if n, ok := s.faults.next(); ok {
		s.log.Warn("rpc: connection ended by a fault of the client's", "peer", nc.RemoteAddr(), "error", err, "unlogged_before", n)
	}
}

// connEnded is called once for each native connection.
func (s *Server) connEnded(sc *serverConn, err error) {
	if isFault(err) {
		s.fault(sc.nc, err)
	}
	sc.share.leave()
	s.mu.Lock()
	delete(s.natives, sc)
	s.mu.Unlock()
	sc.mu.Lock()
	idle := sc.active == 0
	sc.mu.Unlock()
	if idle {
		s.gone(sc.arrived)
		return
	}
	go func() {
		sc.handlers.Wait()
		s.gone(sc.arrived)
	}()
}

// stop closes the listeners and what has not said anything yet, and returns the
// native connections.
func (s *Server) stop() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for l := range s.lis {
		_ = l.Close()
	}
	for _, a := range s.early {
		_ = a.nc.Close()
	}
	if s.late != nil {
		s.late.Stop()
	}
	all := make([]*serverConn, 0, len(s.natives))
	for sc := range s.natives {
		all = append(all, sc)
	}
	return all
}

// GracefulStop closes the listeners, lets every connection know that no new
// calls are taken, and returns when those in flight have ended.
func (s *Server) GracefulStop() {
	for _, sc := range s.stop() {
		sc.goAway("the server is stopping")
	}
	var wg sync.WaitGroup
	for _, h := range s.http2Servers() {
		wg.Go(h.GracefulStop)
	}
	wg.Wait()
	s.wait()
	s.cancel()
}

// Stop closes the listeners and all connections, cancels the contexts of all
// calls, and returns when their handlers have returned. It may be called while
// GracefulStop waits.
func (s *Server) Stop() {
	all := s.stop()
	s.cancel()
	for _, sc := range all {
		sc.fail(errServerStop)
	}
	for _, h := range s.http2Servers() {
		h.Stop()
	}
	s.wait()
}

// wait returns when no connection is left.
func (s *Server) wait() {
	for _, h := range s.http2Servers() {
		_ = h.lis.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.conns > 0 {
		s.drained.Wait()
	}
}
