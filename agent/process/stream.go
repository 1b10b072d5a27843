//go:build linux

package process

import (
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// The streams of Exec and Attach have the same members with the same numbers,
// so both are read as ExecRequest and written as ExecResponse.

// Exec implements guest.v1.ProcessService.
func (s *Server) Exec(stream grpc.BidiStreamingServer[guestv1.ExecRequest, guestv1.ExecResponse]) error {
	open, err := s.receiveOpen(stream)
	if err != nil {
		return err
	}
	if open.Role == guestv1.Role_ROLE_OBSERVER {
		return newFault(codes.InvalidArgument, reasonBadSpec, "who starts a session owns it")
	}
	ses, found, err := s.open(charge.From(stream.Context()), open.SessionId, open.Spec, guestv1.OwnerGone_OWNER_GONE_KILL)
	if err == nil && found {
		err = ses.touch(stream.Context())
	}
	if err != nil {
		return err
	}
	// Who has the id from the start is the same client, come back.
	open.TakeOver = true
	r, opened, err := ses.attach(open, found)
	if err != nil {
		if !found {
			ses.hangUp("its client could not attach")
		}
		return err
	}
	opened.Session = ses.show(charge.From(stream.Context()), opened.Session)
	return s.serve(stream, ses, r, opened, open.AcknowledgesExit)
}

// Attach implements guest.v1.ProcessService.
func (s *Server) Attach(stream grpc.BidiStreamingServer[guestv1.AttachRequest, guestv1.AttachResponse]) error {
	open, err := s.receiveOpen(stream)
	if err != nil {
		return err
	}
	ses, err := s.find(stream.Context(), open.SessionId, open.Name)
	if err == nil {
		err = ses.touch(stream.Context())
	}
	if err != nil {
		return err
	}
	r, opened, err := ses.attach(open, true)
	if err != nil {
		return err
	}
	opened.Session = ses.show(charge.From(stream.Context()), opened.Session)
	return s.serve(stream, ses, r, opened, open.AcknowledgesExit)
}

// receiveOpen receives the first message.
func (s *Server) receiveOpen(stream grpc.ServerStream) (*guestv1.Open, error) {
	req := new(guestv1.ExecRequest)
	if err := stream.RecvMsg(req); err != nil {
		return nil, err
	}
	open := req.GetOpen()
	if open == nil {
		return nil, newFault(codes.InvalidArgument, reasonProtocol, "the first message is not open")
	}
	if n := len(open.ClientId); n != 0 && n != len(sessionID{}) {
		return nil, newFault(codes.InvalidArgument, reasonBadSpec, "a client id has 16 bytes, not %d", n)
	}
	if err := s.checkRun(open.AgentId); err != nil {
		return nil, err
	}
	return open, nil
}

// checkRun fails if a request is for another run of the agent. An empty id means
// any.
func (s *Server) checkRun(agentID string) error {
	if agentID != "" && agentID != s.cfg.AgentID {
		return restartedFault()
	}
	return nil
}

// client is one attached client's call.
type client struct {
	srv    *Server
	ses    *session
	r      *reader
	stream grpc.ServerStream

	mu     sync.Mutex
	leave  *guestv1.Leave // it goes on purpose
	err    error          // it did what it may not
	closed bool           // it sends nothing more
}

// serve serves an attached client until the exit, or until one of both goes.
func (s *Server) serve(stream grpc.ServerStream, ses *session, r *reader, opened *guestv1.Opened, acknowledges bool) error {
	defer s.enter()()
	c := &client{srv: s, ses: ses, r: r, stream: stream}
	err := stream.SendMsg(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Opened{Opened: opened}})
	if err == nil {
		go c.receive()
		err = c.send(acknowledges)
	}
	c.mu.Lock()
	leave := c.leave
	c.mu.Unlock()
	ses.detach(r, leave)
	return err
}

// receive takes the client's messages until it has no more to say. A message
// that comes after the client was detached has no effect.
func (c *client) receive() {
	for {
		req := newInputRequest()
		err := c.stream.RecvMsg(req)
		if err == nil {
			err = c.handle(req)
		}
		req.free()
		if err == nil {
			continue
		}
		c.mu.Lock()
		if _, ok := errors.AsType[*fault](err); ok {
			c.err = err
		}
		c.closed = true
		c.mu.Unlock()
		if errors.Is(err, io.EOF) {
			c.ses.halfClose(c.r)
		}
		wake(c.r.wake)
		return
	}
}

// errLeft ends receive after the client's last message.
var errLeft = errors.New("the client has left")

// handle takes one message.
func (c *client) handle(req *inputRequest) error {
	switch m := req.Message.(type) {
	case *guestv1.ExecRequest_Input:
		kept, err := c.ses.input(c.r, m.Input, req.buffer)
		if kept {
			req.buffer = nil
		}
		return err
	case *guestv1.ExecRequest_CloseOutput:
		return c.ses.closeOutput(c.r, m.CloseOutput.Stream)
	case *guestv1.ExecRequest_FlowControl:
		return c.ses.flow(c.r, m.FlowControl)
	case *guestv1.ExecRequest_Signal:
		return c.ses.sendSignal(c.r, m.Signal)
	case *guestv1.ExecRequest_WindowSize:
		return c.ses.resize(c.r, m.WindowSize)
	case *guestv1.ExecRequest_Leave:
		c.mu.Lock()
		c.leave = m.Leave
		c.mu.Unlock()
		return errLeft
	case *guestv1.ExecRequest_Open:
		return newFault(codes.InvalidArgument, reasonProtocol, "a second open")
	}
	return nil // a message of a later version
}

// send gives the client what there is for it until the exit. Its errors are
// statuses.
func (c *client) send(acknowledges bool) error {
	exited := false
	for {
		c.mu.Lock()
		err, left, closed := c.err, c.leave != nil, c.closed
		c.mu.Unlock()
		switch {
		case err != nil:
			return err
		case left:
			return nil
		case exited && (closed || !acknowledges):
			return nil
		}
		c.ses.mu.Lock()
		p, ok := c.ses.st.next(c.r)
		c.ses.mu.Unlock()
		if ok {
			if err := c.sendPiece(p); err != nil {
				return err
			}
			exited = exited || p.exit != nil
			continue
		}
		select {
		case <-c.r.wake:
		case <-c.stream.Context().Done():
			return status.FromContextError(c.stream.Context().Err()).Err()
		case <-c.srv.stopping.Done():
			return stoppingFault()
		}
	}
}

// sendPiece sends one piece and releases it. This is where output is encoded:
// its bytes lie in the ring until SendMsg has taken them.
func (c *client) sendPiece(p piece) error {
	switch {
	case p.fault != nil:
		return p.fault
	case p.flow != nil:
		return c.stream.SendMsg(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_FlowControl{FlowControl: p.flow}})
	case p.exit != nil:
		return c.stream.SendMsg(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: p.exit}})
	}
	err := c.stream.SendMsg(newOutputResponse(p.output))
	c.ses.release(c.r, p)
	return err
}
