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
)

// Server serves gRPC services on the native wire and on HTTP/2, on the same
// listeners. Register services before the first Serve; after that all methods may
// be called concurrently.
//
// A connection that has the method SyscallConn, of package syscall's Conn, is
// read and written through it on Linux.
type Server struct {
	cfg    ServerConfig
	tls    *tls.Config
	log    *slog.Logger
	stats  statsHandlers
	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	budget budget

	registry
	http2    *grpc.Server
	http2Lis *http2Listener

	mu       sync.Mutex
	serving  bool // registering is over
	stopping bool
	lis      map[net.Listener]struct{}
	natives  map[*serverConn]struct{}
	early    []net.Conn // in their handshake, the oldest first
	conns    int        // all of them
	drained  *sync.Cond // conns has changed
}

var _ reflection.GRPCServer = (*Server)(nil)

// NewServer returns a server with no services. A nil cfg means the defaults.
func NewServer(cfg *ServerConfig) *Server {
	s := &Server{
		lis:     make(map[net.Listener]struct{}),
		natives: make(map[*serverConn]struct{}),
	}
	if cfg != nil {
		s.cfg = *cfg
	}
	s.http2 = newHTTP2Server(s.cfg.setDefaults())
	if s.cfg.MaxConcurrentStreams == 0 {
		s.cfg.MaxConcurrentStreams = DefaultMaxConcurrentStreams
	}
	s.http2Lis = newHTTP2Listener()
	s.log = s.cfg.Logger
	s.stats = slices.Clone(s.cfg.StatsHandlers)
	s.budget.limit = s.cfg.Budget
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.drained = sync.NewCond(&s.mu)
	if s.cfg.TLS != nil {
		s.tls = s.cfg.TLS.Clone()
		s.tls.NextProtos = append(slices.Clone(s.tls.NextProtos), alpn, "h2")
	}
	if h := s.cfg.UnknownServiceHandler; h != nil {
		s.unknown = &method{stream: &grpc.StreamDesc{ClientStreams: true, ServerStreams: true, Handler: func(srv any, st grpc.ServerStream) error {
			return h(srv, st)
		}}}
	}
	return s
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
	s.http2.RegisterService(desc, impl)
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
		go func() { _ = s.http2.Serve(s.http2Lis) }()
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
	s.handle(nc)
}

// handle serves a connection.
func (s *Server) handle(nc net.Conn) {
	s.mu.Lock()
	if s.stopping || s.cfg.MaxConnections > 0 && s.conns >= s.cfg.MaxConnections {
		s.mu.Unlock()
		_ = nc.Close()
		return
	}
	s.conns++
	if len(s.early) >= s.cfg.MaxHandshakes {
		// An honest client is done in no time: the oldest is not one.
		_ = s.early[0].Close()
		s.early = slices.Delete(s.early, 0, 1)
	}
	s.early = append(s.early, nc)
	s.mu.Unlock()
	h, err := s.handshake(nc)
	s.mu.Lock()
	if i := slices.Index(s.early, nc); i >= 0 {
		s.early = slices.Delete(s.early, i, i+1)
	}
	stopping := s.stopping
	s.mu.Unlock()
	if err != nil || stopping {
		if err != nil && !errors.Is(err, io.EOF) && !stopping {
			s.log.Debug("rpc: handshake failed", "peer", nc.RemoteAddr(), "error", err)
		}
		_ = nc.Close()
		s.gone()
		return
	}
	if h.wire == wireHTTP2 {
		s.http2Lis.hand(&http2Conn{handshaken: h, ended: s.gone})
		return
	}
	sc := newServerConn(s, h.Conn, h.peer())
	s.mu.Lock()
	s.natives[sc] = struct{}{}
	stopping = s.stopping
	s.mu.Unlock()
	if stopping {
		sc.goAway("the server is stopping")
	}
	sc.serve(h.begun)
}

// gone accounts for a connection that has ended.
func (s *Server) gone() {
	s.mu.Lock()
	s.conns--
	s.drained.Broadcast()
	s.mu.Unlock()
}

// connEnded is called once for each native connection.
func (s *Server) connEnded(sc *serverConn, err error) {
	var ce *connError
	if errors.As(err, &ce) {
		s.log.Warn("rpc: connection ended by a fault of the client's", "peer", sc.nc.RemoteAddr(), "error", err)
	}
	s.mu.Lock()
	delete(s.natives, sc)
	s.mu.Unlock()
	go func() {
		sc.handlers.Wait()
		s.gone()
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
	for _, nc := range s.early {
		_ = nc.Close()
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
	s.http2.GracefulStop()
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
	s.http2.Stop()
	s.wait()
}

// wait returns when no connection is left.
func (s *Server) wait() {
	_ = s.http2Lis.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.conns > 0 {
		s.drained.Wait()
	}
}
