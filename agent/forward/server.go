//go:build linux

package forward

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/internal/subject"
	"github.com/vsockrpc/vsockrpc/internal/localhost"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Config says how a Server is. The zero value of every field is its default.
type Config struct {
	// Logger gets the records. Default: slog.Default().
	Logger *slog.Logger
	// MaxConnections bounds the connections that are open or waiting to be
	// accepted, and the listeners, all together. Default: 4096.
	MaxConnections int
	// AcceptWait is how long a connection waits to be accepted. Default: 10 s.
	AcceptWait time.Duration
}

// Server implements guest.v1.ForwardService. It is made by NewServer and safe
// for concurrent use. It holds nothing beyond the calls that are open.
type Server struct {
	guestv1.UnimplementedForwardServiceServer
	log        *slog.Logger
	acceptWait time.Duration
	sockets    *charge.Pool

	mu      sync.Mutex
	waiting map[string]*waiting // by connection id
}

var _ guestv1.ForwardServiceServer = (*Server)(nil)

// NewServer returns a Server; a nil cfg means the defaults.
func NewServer(cfg *Config) *Server {
	if cfg == nil {
		cfg = &Config{}
	}
	s := &Server{
		log:        cfg.Logger,
		acceptWait: cfg.AcceptWait,
		waiting:    make(map[string]*waiting),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.acceptWait == 0 {
		s.acceptWait = 10 * time.Second
	}
	n := cfg.MaxConnections
	if n == 0 {
		n = 4096
	}
	s.sockets = charge.NewPool(int64(n))
	return s
}

// take charges a socket to an account, or says why not. The caller gives it back.
func (s *Server) take(a charge.Account) error {
	if r := s.sockets.Take(a, 1); r != nil {
		return fault.New(codes.ResourceExhausted, reasonTooMany, "the agent carries too many connections: %v", r).
			Hint("close some of them")
	}
	return nil
}

func (s *Server) give(a charge.Account) { s.sockets.Give(a, 1) }

// Dial connects to an address and carries the connection.
func (s *Server) Dial(stream guestv1.ForwardService_DialServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return protocolFault("the first message of Dial is not open")
	}
	account := charge.From(stream.Context())
	if err := s.take(account); err != nil {
		return err
	}
	defer s.give(account)

	conn, err := dial(stream.Context(), open)
	if err != nil {
		return err
	}
	if err := stream.Send(&guestv1.DialResponse{Message: &guestv1.DialResponse_Opened{Opened: opened(conn)}}); err != nil {
		conn.Close()
		return err
	}
	return relay(stream, conn)
}

func dial(ctx context.Context, open *guestv1.DialOpen) (net.Conn, error) {
	network, address := open.GetNetwork(), string(open.GetAddress())
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "unix", "unixgram":
	default:
		return nil, unknownNetwork(network)
	}
	if ms := open.GetTimeoutMillis(); ms > 0 && ms < uint64(time.Duration(1<<62)/time.Millisecond) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	if endsEarly(network, address) {
		return nil, dialFault(network, address, syscall.EINVAL)
	}
	var d net.Dialer
	if network == "unixgram" {
		// Without an address of its own the socket gets no answers.
		d.LocalAddr = &net.UnixAddr{Net: network, Name: ""}
	}
	connect := localhost.Dial
	if isHeld(ctx, network, address) {
		connect = dialHeld
	}
	var conn net.Conn
	var err error
	if strings.HasPrefix(network, "unix") {
		// The way to the socket may be through what users of the guest have mounted.
		conn, err = subject.Open(ctx, address, func() (net.Conn, error) { return connect(ctx, &d, network, address) })
	} else {
		conn, err = connect(ctx, &d, network, address)
	}
	if err != nil {
		return nil, dialFault(network, address, err)
	}
	return conn, nil
}

// endsEarly reports whether the kernel would take the path of a socket for another: it
// ends at the first byte 0.
func endsEarly(network, address string) bool {
	return strings.HasPrefix(network, "unix") && !strings.HasPrefix(address, "@") && strings.Contains(address, "\x00")
}

func opened(conn net.Conn) *guestv1.TunnelOpened {
	return &guestv1.TunnelOpened{LocalAddress: addrBytes(conn.LocalAddr()), RemoteAddress: addrBytes(conn.RemoteAddr())}
}

func addrBytes(a net.Addr) []byte {
	if a == nil {
		return nil
	}
	return []byte(a.String())
}

// removeStale removes a Unix socket that nobody listens on, which is what a
// listener that was killed leaves behind.
func removeStale(path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return
	}
	if isRefused(err) {
		os.Remove(path)
	}
}
