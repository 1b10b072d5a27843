package guest

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// mayRetry reports whether attaching again may help after err.
func (s *session) mayRetry(err error) bool {
	select {
	case <-s.g.closed:
		return false
	case <-s.ctx.Done():
		return false
	default:
	}
	s.mu.Lock()
	leaving := s.leave != nil
	s.mu.Unlock()
	if leaving || s.g.reconnect == 0 {
		return false
	}
	var own *Error
	if errors.As(err, &own) {
		return false
	}
	e, ok := s.g.wrap(s.op, s.method, err).(*Error)
	if !ok || e.Code != codes.Unavailable {
		return false
	}
	if te := s.g.dialer.lastError(); te != nil {
		return te.Temporary()
	}
	return e.Reason == ReasonUnreachable
}

// final returns the error that the session ends with after err.
func (s *session) final(err error) error {
	select {
	case <-s.g.closed:
		return s.g.newError(s.op, codes.Canceled, ReasonClosed, "the guest was closed")
	default:
	}
	if cause := context.Cause(s.ctx); cause != nil {
		return s.g.wrap(s.op, s.method, cause)
	}
	s.mu.Lock()
	leave, isOpen := s.leave, s.isOpen
	s.mu.Unlock()
	if leave != nil {
		return s.g.newError(s.op, codes.Canceled, ReasonLeft, "left")
	}
	wrapped := s.g.wrap(s.op, s.method, err)
	var e *Error
	if !errors.As(wrapped, &e) {
		return wrapped
	}
	lost := *e
	switch {
	case e.Reason == ReasonAgentRestarted || isOpen && (e.Reason == ReasonNoSession || e.Reason == ReasonAgentStopping || e.Reason == ReasonSessionGone):
		return sessionLost(e)
	case status.Code(err) == codes.DeadlineExceeded || e.Code == codes.DeadlineExceeded || e.Reason == ReasonUnreachable ||
		isOpen && e.Code == codes.Unavailable:
		lost.Reason, lost.Code = ReasonUnreachable, codes.Unavailable
		lost.message = "connection lost, and not re-established within " + s.g.reconnect.String() + ": " + e.message
		lost.Remedy = "see host-ctl doctor; the session may still run in the guest"
	default:
		return e
	}
	return &lost
}

// sessionLost returns e as the end of a session. Its code is not Unavailable: whoever
// retries by the code would run the command twice.
func sessionLost(e *Error) *Error {
	lost := *e
	lost.Reason, lost.Code = ReasonSessionLost, codes.Aborted
	lost.message = "session lost: " + e.message
	lost.Remedy = "sessions end with the agent; run the command again if that does no harm"
	return &lost
}
