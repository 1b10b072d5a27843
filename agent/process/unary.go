//go:build linux

package process

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Start implements guest.v1.ProcessService.
func (s *Server) Start(ctx context.Context, req *guestv1.StartRequest) (*guestv1.StartResponse, error) {
	if err := s.checkRun(req.AgentId); err != nil {
		return nil, err
	}
	ses, found, err := s.open(charge.From(ctx), req.SessionId, req.Spec, guestv1.OwnerGone_OWNER_GONE_KEEP)
	if err == nil && found {
		err = ses.touch(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &guestv1.StartResponse{Session: ses.show(charge.From(ctx), ses.info())}, nil
}

// Wait implements guest.v1.ProcessService.
func (s *Server) Wait(ctx context.Context, req *guestv1.WaitRequest) (*guestv1.WaitResponse, error) {
	ses, err := s.find(ctx, req.SessionId, "")
	if err != nil {
		return nil, err
	}
	defer s.enter()()
	if err := s.await(ctx, ses); err != nil {
		return nil, err
	}
	return &guestv1.WaitResponse{Exit: ses.info().Exit}, nil
}

// await waits for the end of a session.
func (s *Server) await(ctx context.Context, ses *session) error {
	select {
	case <-ses.done:
		return nil
	default:
	}
	select {
	case <-ses.done:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-s.stopping.Done():
		if ses.isOver() {
			return nil
		}
		return stoppingFault()
	}
}

// Remove implements guest.v1.ProcessService. To remove what was removed is no
// error, so that a call may be repeated.
func (s *Server) Remove(ctx context.Context, req *guestv1.RemoveRequest) (*guestv1.RemoveResponse, error) {
	ses, err := s.find(ctx, req.SessionId, "")
	if err != nil {
		if f, ok := err.(*fault); ok && f.Reason() == reasonSessionGone {
			return &guestv1.RemoveResponse{}, nil
		}
		return nil, err
	}
	if err := ses.touch(ctx); err != nil {
		return nil, err
	}
	if !ses.isOver() {
		if !req.Force {
			return nil, newFault(codes.FailedPrecondition, reasonSessionRunning, "session %s runs", ses.id).
				Hint("force it, or signal it and wait")
		}
		ses.hangUp("it was removed")
		if err := s.await(ctx, ses); err != nil {
			return nil, err
		}
	}
	s.forget(ses)
	return &guestv1.RemoveResponse{}, nil
}

// ListSessions implements guest.v1.ProcessService.
func (s *Server) ListSessions(ctx context.Context, _ *guestv1.ListSessionsRequest) (*guestv1.ListSessionsResponse, error) {
	to := charge.From(ctx)
	resp := &guestv1.ListSessionsResponse{}
	all := s.list()
	for _, ses := range all {
		info := ses.show(to, ses.info())
		info.Args = clipArgs(info.Args, maxListedArgs/len(all))
		resp.Sessions = append(resp.Sessions, info)
	}
	return resp, nil
}
