package guest

import (
	"google.golang.org/grpc"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// send sends what there is to send until quit is closed. It reports true when
// the agent was told that this side leaves.
func (s *session) send(st grpc.ClientStream, quit <-chan struct{}) bool {
	for {
		m, last := s.message()
		if m == nil {
			select {
			case <-s.wake:
				continue
			case <-quit:
				return false
			}
		}
		if st.SendMsg(m) != nil {
			return false
		}
		if last {
			return st.CloseSend() == nil
		}
	}
}

// message returns what is to be sent next, or nil; last says that nothing may
// follow.
func (s *session) message() (next any, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &guestv1.ExecRequest{}
	drained := true
	for _, o := range s.outs {
		if f := o.flowControl(s.leave != nil); f != nil {
			m.Message = &guestv1.ExecRequest_FlowControl{FlowControl: f}
			return m, false
		}
		drained = drained && o.consumed == o.received
		if o.refused && s.exit == nil && s.leave == nil {
			// The agent may have missed it: it is said again on the next connection.
			o.refused = false
			m.Message = &guestv1.ExecRequest_CloseOutput{CloseOutput: &guestv1.CloseOutput{Stream: o.stream}}
			return m, false
		}
	}
	switch {
	case s.leave != nil:
		m.Message = &guestv1.ExecRequest_Leave{Leave: s.leave}
		return m, true
	case s.exit != nil && drained:
		// All is consumed: the agent may forget the session.
		m.Message = &guestv1.ExecRequest_Leave{Leave: &guestv1.Leave{}}
		return m, true
	case s.exit != nil:
		return nil, false
	case s.kill != nil && !s.killed:
		s.killed = true
		m.Message = &guestv1.ExecRequest_Signal{Signal: s.kill}
		return m, false
	case s.size != nil && !s.sized:
		s.sized = true
		m.Message = &guestv1.ExecRequest_WindowSize{WindowSize: s.size}
		return m, false
	case s.in != nil:
		if in := s.in.message(); in != nil {
			return inputRequest{in}, false
		}
	}
	return nil, false
}
