package guest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const (
	// leaveTimeout bounds how long an end that was made known to the agent is
	// waited to arrive there.
	leaveTimeout = time.Second

	// maxUnknown bounds the messages of kinds that a newer agent may send.
	maxUnknown = 1000
)

// streamDesc describes Exec and Attach, whose streams have the same messages.
var streamDesc = grpc.StreamDesc{StreamName: "Exec", ServerStreams: true, ClientStreams: true}

// session is this side of an attachment to a session of the agent. It outlives
// connections: run attaches again, at the offsets reached.
type session struct {
	g      *Guest
	op     string        // for errors
	method string        // of Exec or Attach
	first  *guestv1.Open // what the first attachment asks for

	ctx  context.Context // of the streams
	stop context.CancelCauseFunc

	wake   chan struct{} // has one element if the sender may have something to do
	opened chan struct{} // closed when the first attachment stands, or with done
	done   chan struct{} // closed when exit or err is set
	// settled is closed when run returns: after the end was made known to the
	// agent, so that it can forget the session.
	settled chan struct{}

	mu       *sync.Mutex         // guards what follows
	outs     [2]*output          // stdout, stderr
	in       *input              // nil if stdin is not connected here
	size     *guestv1.WindowSize // the last one
	sized    bool                // it was sent on this connection
	kill     *guestv1.SendSignal
	killed   bool // so was this
	leave    *guestv1.Leave
	isOpen   bool
	agentID  string
	asked    bool // the agent was asked, and may have started the session
	info     *guestv1.SessionInfo
	exit     *guestv1.Exit
	err      error
	progress bool // something came since the last attachment
	unknown  int
}

// newSession makes a session that run attaches. The streams' context has the
// values of ctx and not its end.
func (g *Guest) newSession(ctx context.Context, op, method string, first *guestv1.Open, sio *stdio) *session {
	s := &session{
		g: g, op: op, method: method, first: first, agentID: g.cachedInfo().GetAgentId(),
		wake: make(chan struct{}, 1), opened: make(chan struct{}), done: make(chan struct{}), settled: make(chan struct{}),
		mu: &sio.mu, outs: sio.out, in: sio.in,
	}
	first.Window, first.AcknowledgesExit = defaultWindow, true
	client := NewSessionID() // as good a random id as any
	first.ClientId = client[:]
	s.ctx, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	for _, o := range s.outs {
		o.ack = s.poke
		o.mayLose = first.Role == guestv1.Role_ROLE_OBSERVER || first.Spec.GetRingFull() == guestv1.RingFull_RING_FULL_DROP_OLDEST
	}
	if s.in != nil {
		s.in.wake = s.poke
	}
	g.track(s)
	return s
}

// name returns the session's id or, before that is known, the name that it was asked
// for by. mu is held.
func (s *session) name() string {
	id, err := SessionIDFromBytes(s.first.SessionId)
	if s.info != nil {
		id, err = SessionIDFromBytes(s.info.SessionId)
	}
	if err != nil {
		return s.first.Name
	}
	return id.String()
}

// log returns the logger of what concerns the session.
func (s *session) log() *slog.Logger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.g.log.With("session", s.name())
}

// observes reports whether this is an observer's attachment, which may only read.
func (s *session) observes() bool { return s.first.Role == guestv1.Role_ROLE_OBSERVER }

func observerError() error {
	return &Error{Code: codes.FailedPrecondition, Reason: "not-owner", Remedy: "attach as the owner", message: "an observer may only read"}
}

// poke tells the sender to look.
func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run attaches, and again after each lost connection, until the session has
// ended or is lost. It returns after the end was made known to the agent.
func (s *session) run() {
	defer s.g.untrack(s)
	defer close(s.settled)
	defer s.stop(nil)
	again := reconnector{limit: s.g.reconnect}
	for try := 1; ; try++ {
		attached, err := s.attach(again.left())
		if s.ended() {
			return
		}
		if try == 1 && s.renewed(err) {
			continue
		}
		switch {
		case s.takeProgress():
			again.connected()
		case attached:
			again.reached()
		}
		delay, ok := again.next()
		if !ok || !s.mayRetry(err) {
			s.finish(nil, s.final(err))
			return
		}
		s.log().Info("connection lost: attaching again", "in", delay, "error", err)
		if !pause(s.ctx, s.g.closed, delay) {
			s.finish(nil, s.final(err))
			return
		}
	}
}

// attach attaches on one connection and stays until that is lost or the session
// has ended. It reports whether the agent took the attachment. Unless it has by
// then, attach gives up after limit, if there is one.
func (s *session) attach(limit time.Duration) (bool, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	if s.g.reconnect == 0 {
		limit = math.MaxInt64 // there is none; the first attachment is the only one
	}
	giveUp := time.AfterFunc(limit, cancel)
	err := s.meet(ctx)
	var st grpc.ClientStream
	var opened *guestv1.Opened
	if err == nil {
		st, opened, err = s.open(ctx)
	}
	if !giveUp.Stop() && s.g.reconnect > 0 && s.ctx.Err() == nil {
		return false, status.Error(codes.DeadlineExceeded, "no answer")
	}
	if err != nil {
		return false, err
	}
	if err := s.accept(opened); err != nil {
		return true, err
	}
	quit, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		if s.send(st, quit) {
			// The agent ends the stream now, unless it is gone.
			defer time.AfterFunc(leaveTimeout, cancel).Stop()
			<-quit
		}
	}()
	err = s.receive(st)
	cancel()
	close(quit)
	<-sent
	return true, err
}

// meet has the agent's present id before a session is asked for: an id of a run
// that was over before would make a start that is cut look like one that is lost.
func (s *session) meet(ctx context.Context) error {
	s.mu.Lock()
	asked := s.asked
	s.mu.Unlock()
	if asked {
		return nil
	}
	info, err := s.g.met(ctx)
	if err != nil {
		return err
	}
	s.update(func() { s.agentID, s.asked = info.GetAgentId(), true })
	return nil
}

// open makes a stream and exchanges the first messages.
func (s *session) open(ctx context.Context) (grpc.ClientStream, *guestv1.Opened, error) {
	st, err := s.g.conn.NewStream(ctx, &streamDesc, s.method)
	if err != nil {
		return nil, nil, err
	}
	// A failed SendMsg says io.EOF; RecvMsg has the reason.
	if err := st.SendMsg(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: s.request()}}); err != nil && err != io.EOF {
		return nil, nil, err
	}
	m := new(guestv1.ExecResponse)
	if err := st.RecvMsg(m); err != nil {
		return nil, nil, noEnd(err)
	}
	return st, m.GetOpened(), nil
}

// renewed reports whether err only says that the agent was restarted some time
// before this session, and takes the new agent for the one to start it.
func (s *session) renewed(err error) bool {
	e, ok := errors.AsType[*Error](s.g.wrap(s.op, s.method, err))
	if !ok || e.Reason != ReasonAgentRestarted {
		return false
	}
	info, err := s.g.Info(s.ctx)
	if err != nil {
		return false
	}
	s.update(func() { s.agentID = info.AgentId })
	return true
}

// noEnd makes an error of a stream that ends well and too early.
func noEnd(err error) error {
	if err == io.EOF {
		return protocolError("the stream ended without an exit")
	}
	return err
}

// request returns the first message of an attachment.
func (s *session) request() *guestv1.Open {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := proto.CloneOf(s.first)
	open.AgentId = s.agentID
	if s.isOpen {
		// From now on the session is to be found, never to be started.
		open.Spec, open.FromOldest, open.TailBytes, open.TakeOver = nil, false, nil, false
		open.SessionId, open.Name = s.info.SessionId, ""
	}
	for _, o := range s.outs {
		if s.isOpen {
			o.rewind()
		}
	}
	open.StdoutOffset, open.StderrOffset = s.outs[0].taken, s.outs[1].taken
	return open
}

// accept takes in the first message of the agent.
func (s *session) accept(m *guestv1.Opened) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m == nil {
		return protocolError("the first message does not open the session")
	}
	id := m.GetSession().GetSessionId()
	want := s.first.SessionId
	if s.isOpen {
		want = s.info.SessionId
	}
	if len(id) != len(SessionID{}) || len(want) > 0 && string(id) != string(want) {
		return protocolError("the agent opened another session")
	}
	choose := !s.isOpen && (s.first.FromOldest || s.first.TailBytes != nil)
	for i, offset := range []uint64{m.StdoutOffset, m.StderrOffset} {
		o := s.outs[i]
		o.mayLose = o.mayLose || m.Session.GetRingFull() == guestv1.RingFull_RING_FULL_DROP_OLDEST
		if err := o.opened(offset, choose); err != nil {
			return err
		}
		o.mayRefuse = s.first.Role == guestv1.Role_ROLE_OWNER && s.g.can(capabilityCloseOutput) && !m.Session.GetTerminal()
		o.refused = o.refuse && o.mayRefuse
	}
	if s.in != nil {
		if !s.isOpen && s.first.Spec == nil {
			s.in.joined(m)
		}
		if err := s.in.opened(m); err != nil {
			return err
		}
	}
	s.info, s.agentID = m.Session, m.AgentId
	// The agent may have missed them. Both may be repeated.
	s.sized, s.killed = false, false
	if !s.isOpen {
		s.isOpen = true
		close(s.opened)
	} else {
		s.g.log.Info("attached again", "session", s.name(), "stdout", m.StdoutOffset, "stderr", m.StderrOffset, "stdin", m.StdinOffset)
	}
	s.poke()
	return nil
}

// receive takes in what the agent sends until the stream ends.
func (s *session) receive(st grpc.ClientStream) error {
	for {
		m := new(response)
		if err := st.RecvMsg(m); err != nil {
			return noEnd(err)
		}
		if err := s.take(m); err != nil {
			return err
		}
	}
}

// take takes in one message of the agent.
func (s *session) take(r *response) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress = true
	if out := r.GetOutput(); out != nil {
		for _, o := range s.outs {
			if o.stream == out.Stream && s.exit == nil {
				return o.accept(out, r.buffer)
			}
		}
		if r.buffer != nil {
			r.buffer.Free()
		}
		return protocolError("output of %v, or after the exit", out.Stream)
	}
	if s.exit != nil {
		return protocolError("a message after the exit")
	}
	switch m := r.Message.(type) {
	case *guestv1.ExecResponse_FlowControl:
		if s.in == nil || m.FlowControl.GetStream() != guestv1.Stream_STREAM_STDIN {
			return protocolError("flow control of %v", m.FlowControl.GetStream())
		}
		if err := s.in.taken(m.FlowControl.ConsumedOffset, m.FlowControl.Window); err != nil {
			return err
		}
		s.poke()
		return nil
	case *guestv1.ExecResponse_Exit:
		return s.takeExit(m.Exit)
	}
	if s.unknown++; s.unknown > maxUnknown {
		return protocolError("more than %d messages of unknown kinds", maxUnknown)
	}
	return nil
}

func (s *session) takeExit(exit *guestv1.Exit) error {
	if exit == nil || exit.Code == nil && exit.Signal == 0 {
		return protocolError("an exit with neither a code nor a signal")
	}
	for i, total := range []uint64{exit.StdoutBytes, exit.StderrBytes} {
		if o := s.outs[i]; total > o.received && !o.refuse {
			return protocolError("the exit says %d bytes of %s, only %d came", total, o.name(), o.received)
		}
	}
	s.finishLocked(exit, nil)
	return nil
}

// update changes what is to be sent, and wakes the sender.
func (s *session) update(change func()) {
	s.mu.Lock()
	change()
	s.mu.Unlock()
	s.poke()
}

// consumed reports whether the session has ended and all of it was consumed.
func (s *session) consumed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.outs {
		if o.consumed != o.received {
			return false
		}
	}
	return s.exit != nil
}

func (s *session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *session) takeProgress() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.progress
	s.progress = false
	return p
}

// finish ends the session here: with its exit, or with err.
func (s *session) finish(exit *guestv1.Exit, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(exit, err)
}

func (s *session) finishLocked(exit *guestv1.Exit, err error) {
	if s.exit != nil || s.err != nil {
		return
	}
	s.exit, s.err = exit, err
	for _, o := range s.outs {
		o.finish(err)
	}
	if s.in != nil {
		s.in.finish(errPipe)
	}
	if !s.isOpen {
		close(s.opened)
	}
	close(s.done)
	s.poke()
}
