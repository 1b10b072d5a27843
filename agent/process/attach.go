//go:build linux

package process

import (
	"time"

	"google.golang.org/grpc/mem"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// attach attaches a client.
func (s *session) attach(open *guestv1.Open, found bool) (*reader, *guestv1.Opened, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, f := s.st.attach(open)
	if f != nil {
		return nil, nil, f
	}
	if s.st.owner == r {
		s.leash.stop()
		s.leash = nil
	}
	s.wakeReaders() // the former owner goes
	for i := range s.room {
		wake(s.room[i]) // its offsets may acknowledge something
	}
	in := &s.st.in
	return r, &guestv1.Opened{
		Session:      s.describe(),
		StdoutOffset: r.out[stdout].next,
		StderrOffset: r.out[stderr].next,
		StdinOffset:  in.end,
		StdinEof:     in.eof,
		StdinWindow:  in.limit() - in.end,
		Attached:     found,
		AgentId:      s.srv.cfg.AgentID,
	}, nil
}

// detach takes a client away. leave is what it said before, nil if it was cut
// off.
func (s *session) detach(r *reader, leave *guestv1.Leave) {
	s.mu.Lock()
	action := s.st.detach(r, leave)
	if s.forgotten && len(s.st.readers) == 0 {
		s.st.dropAll()
	}
	if action == goneGrace && s.grace > 0 {
		s.startLeash()
	}
	keep := s.spec.KeepResult
	s.consumed = s.consumed || !keep && (action == goneEnd || action == goneConsumed)
	for i := range s.room {
		wake(s.room[i]) // what it held may be free
	}
	s.mu.Unlock()
	switch {
	case action == goneGrace && s.grace == 0:
		s.hangUp("its owner was gone")
	case action == goneEnd:
		s.hangUp("its owner left")
	case action == goneConsumed && !keep:
		<-s.done // it has its exit, and is about to be in the list of those that are over
		s.srv.forget(s)
	}
}

// startLeash ends the session unless an owner comes in time. It is called under
// mu.
func (s *session) startLeash() {
	var c *countdown
	c = startCountdown(s.grace, func() {
		s.mu.Lock()
		over := s.leash == c && s.st.owner == nil
		s.mu.Unlock()
		if over {
			s.hangUp("its owner was gone for " + s.grace.String())
		}
	})
	s.leash = c
}

// input takes a piece of stdin from a client. It reports whether it keeps the
// piece, and the buffer that it lies in.
func (s *session) input(r *reader, in *guestv1.Input, buffer mem.Buffer) (kept bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.st.owner != r {
		return false, s.notOwner(r)
	}
	kept, f := s.st.in.take(in.Offset, in.Data, in.Eof, buffer)
	if f != nil {
		return false, f
	}
	wake(s.fed)
	wake(r.wake)
	return kept, nil
}

// closeOutput ends an output stream that its owner wants no more of. The
// process that goes on writing gets SIGPIPE.
func (s *session) closeOutput(r *reader, stream guestv1.Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.st.owner != r {
		return s.notOwner(r)
	}
	for i, name := range streamNames {
		if stream != name || s.io.out[i] == nil || s.io.terminal != nil {
			continue
		}
		s.closed[i] = true
		s.st.abandon(i)
		_ = s.io.out[i].SetReadDeadline(pastDeadline)
		wake(s.room[i])
	}
	return nil
}

// flow takes a client's acknowledgement of an output stream.
func (s *session) flow(r *reader, flow *guestv1.FlowControl) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, name := range streamNames {
		if flow.Stream != name || !s.st.readers[r] {
			continue
		}
		starved := r.out[i].at() >= r.out[i].limit
		if f := s.st.acknowledge(r, i, flow.ConsumedOffset, flow.Window); f != nil {
			return f
		}
		if starved {
			wake(r.wake)
		}
		if s.waits[i] {
			wake(s.room[i])
		}
	}
	return nil
}

// halfClose says that a client will send nothing more.
func (s *session) halfClose(r *reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.st.readers[r] {
		return
	}
	s.st.halfClose(r)
	wake(r.wake)
	for i := range s.room {
		wake(s.room[i])
	}
}

// resize sets the size of the terminal's window.
func (s *session) resize(r *reader, size *guestv1.WindowSize) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.st.owner != r:
		return s.notOwner(r)
	case s.io.terminal == nil:
		return noTerminal()
	}
	// A terminal that has gone has no size.
	s.size = size
	if !size.GetRedraw() {
		_ = s.io.resize(size)
		return nil
	}
	_ = s.io.resize(&guestv1.WindowSize{Rows: size.Rows + 1, Columns: size.Columns})
	time.AfterFunc(redrawPause, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = s.io.resize(s.size)
	})
	return nil
}

// redrawPause is how long a terminal has another size before a program that draws all
// of it is told of the right one: it has to see both.
const redrawPause = 50 * time.Millisecond

// notOwner is called under mu, for a request of a reader that does not own the
// session, or not any more.
func (s *session) notOwner(r *reader) error {
	if !s.st.readers[r] || r.evicted != nil {
		return nil // its call is about to end
	}
	return notOwner()
}

// release gives up a piece of output that was sent.
func (s *session) release(r *reader, p piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.release(r, p)
	if r.silent {
		wake(s.room[p.stream])
	}
}
