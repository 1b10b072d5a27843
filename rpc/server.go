package rpc

import (
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
)

// Server serves gRPC services on the native wire and on HTTP/2, on the same
// listeners. Register services before the first Serve.
type Server struct {
	cfg   ServerConfig
	http2 *grpc.Server
}

var _ reflection.GRPCServer = (*Server)(nil)

// NewServer returns a server with no services. A nil cfg means the defaults.
func NewServer(cfg *ServerConfig) *Server {
	s := &Server{}
	if cfg != nil {
		s.cfg = *cfg
	}
	opts := []grpc.ServerOption{grpc.ForceServerCodecV2(Codec())}
	if s.cfg.UnaryInterceptor != nil {
		opts = append(opts, grpc.UnaryInterceptor(s.cfg.UnaryInterceptor))
	}
	if s.cfg.StreamInterceptor != nil {
		opts = append(opts, grpc.StreamInterceptor(s.cfg.StreamInterceptor))
	}
	for _, h := range s.cfg.StatsHandlers {
		opts = append(opts, grpc.StatsHandler(h))
	}
	s.http2 = grpc.NewServer(opts...)
	return s
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) { s.http2.RegisterService(desc, impl) }

// GetServiceInfo implements reflection.ServiceInfoProvider.
func (s *Server) GetServiceInfo() map[string]grpc.ServiceInfo { return s.http2.GetServiceInfo() }

// Serve accepts connections on lis and serves them until Stop, GracefulStop, or
// an error of lis. It returns nil after Stop and GracefulStop. It closes lis.
// Several listeners may be served at once.
func (s *Server) Serve(lis net.Listener) error { return s.http2.Serve(lis) }

// GracefulStop closes the listeners, lets every connection know that no new
// calls are taken, and returns when those in flight have ended.
func (s *Server) GracefulStop() { s.http2.GracefulStop() }

// Stop closes the listeners and all connections, cancels the contexts of all
// calls, and returns when their handlers have returned.
func (s *Server) Stop() { s.http2.Stop() }

// ServeConn serves one connection and returns when it has ended. It closes conn.
func (s *Server) ServeConn(conn net.Conn) {
	lis := newOneConn(conn)
	_ = s.http2.Serve(lis)
}
