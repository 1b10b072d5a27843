//go:build linux

package forward

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/internal/fault"
	"github.com/vsockrpc/vsockrpc/agent/internal/subject"
	"github.com/vsockrpc/vsockrpc/internal/localhost"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const (
	defaultBacklog = 128
	maxBacklog     = 1024
)

// waiting is a connection that waits to be accepted. Whoever removes it from
// Server.waiting owns it.
type waiting struct {
	account charge.Account // the listener's
	conn    net.Conn
	timer   *time.Timer
	freed   func() // gives its place in the listener's backlog back
}

// Listen listens until the call ends and announces what connects.
func (s *Server) Listen(req *guestv1.ListenRequest, stream guestv1.ForwardService_ListenServer) error {
	network, address := req.GetNetwork(), string(req.GetAddress())
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "unix":
	default:
		return unknownNetwork(network)
	}
	file, err := socketFileOf(req)
	if err != nil {
		return err
	}
	account := charge.From(stream.Context())
	if err := s.take(account); err != nil {
		return err
	}
	defer s.give(account)
	if endsEarly(network, address) {
		return listenFault(network, address, syscall.EINVAL)
	}
	l, err := listen(stream.Context(), network, address, file)
	if err != nil {
		return listenFault(network, address, err)
	}
	defer context.AfterFunc(stream.Context(), func() { l.Close() })()
	defer l.Close()
	if err := stream.Send(&guestv1.ListenResponse{Address: addrBytes(l.Addr())}); err != nil {
		return err
	}

	n := int(min(req.GetBacklog(), maxBacklog))
	if n == 0 {
		n = defaultBacklog
	}
	backlog := make(chan struct{}, n)
	ids := make(map[string]struct{}) // this listener's, those long accepted included until the next sweep
	defer func() {
		for id := range ids {
			if w := s.claim(id); w != nil {
				s.drop(w)
			}
		}
	}()
	for {
		select {
		case backlog <- struct{}{}:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
		conn, err := accept(stream.Context(), l)
		if err != nil {
			return err
		}
		if err := s.take(account); err != nil {
			reset(conn)
			<-backlog
			continue
		}
		id := s.announce(account, conn, func() { <-backlog })
		s.sweep(ids)
		ids[id] = struct{}{}
		err = stream.Send(&guestv1.ListenResponse{ConnectionId: []byte(id), RemoteAddress: addrBytes(conn.RemoteAddr())})
		if err != nil {
			return err
		}
	}
}

func listen(ctx context.Context, network, address string, file socketFile) (net.Listener, error) {
	if !strings.HasPrefix(network, "unix") {
		return localhost.Listen(ctx, new(net.ListenConfig), network, address)
	}
	return subject.Open(ctx, address, func() (net.Listener, error) { return listenUnix(ctx, network, address, file) })
}

func listenUnix(ctx context.Context, network, address string, file socketFile) (net.Listener, error) {
	if isHeld(ctx, network, address) {
		return listenHeld(ctx, address, file)
	}
	if network == "unix" {
		removeStale(address)
	}
	return file.listen(ctx, address)
}

// accept accepts the next connection; it waits while the process has no
// descriptor for it.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, time.Second) {
		conn, err := l.Accept()
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if code, reason, _ := classify(err); reason != reasonFiles {
			return nil, fault.New(code, reason, "accept in the guest: %v", cause(err)).On("accept", l.Addr().String(), err)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// announce keeps conn until it is accepted or has waited too long.
func (s *Server) announce(account charge.Account, conn net.Conn, freed func()) (id string) {
	var b [16]byte
	rand.Read(b[:])
	id = string(b[:])
	w := &waiting{account: account, conn: conn, freed: freed}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[id] = w
	w.timer = time.AfterFunc(s.acceptWait, func() {
		if w := s.claim(id); w != nil {
			s.drop(w)
		}
	})
	return id
}

// claim takes the connection from those that wait; nil: it is not there.
func (s *Server) claim(id string) *waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[id]
	if w == nil {
		return nil
	}
	delete(s.waiting, id)
	w.timer.Stop()
	w.freed()
	return w
}

// drop ends a connection that nobody accepted.
func (s *Server) drop(w *waiting) {
	reset(w.conn)
	s.give(w.account)
}

// sweep forgets the ids that no longer wait, once there are many of them.
func (s *Server) sweep(ids map[string]struct{}) {
	if len(ids) < 2*maxBacklog {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range ids {
		if s.waiting[id] == nil {
			delete(ids, id)
		}
	}
}

// Accept carries a connection that Listen announced.
func (s *Server) Accept(stream guestv1.ForwardService_AcceptServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return protocolFault("the first message of Accept is not open")
	}
	w := s.claim(string(open.GetConnectionId()))
	if w == nil {
		return fault.New(codes.NotFound, reasonNoConn, "no such connection waits to be accepted").
			Hint("accept a connection within " + s.acceptWait.String() + " of its announcement")
	}
	defer s.give(w.account)
	if err := stream.Send(&guestv1.AcceptResponse{Message: &guestv1.AcceptResponse_Opened{Opened: opened(w.conn)}}); err != nil {
		reset(w.conn)
		return err
	}
	err = relay(stream, w.conn)
	if errors.Is(err, context.Canceled) {
		s.log.Debug("the host broke an accepted connection off", "remote", addrBytes(w.conn.RemoteAddr()))
	}
	return err
}
