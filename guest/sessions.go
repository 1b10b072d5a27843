package guest

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// maxProcesses bounds how many processes a guest may claim to have: Linux's
// largest pid_max. Tests lower it.
var maxProcesses = 1 << 22

const reasonNoProcess = "no-process"

// Sessions returns the sessions that the agent has, oldest first.
func (g *Guest) Sessions(ctx context.Context) ([]*guestv1.SessionInfo, error) {
	resp, err := call[guestv1.ListSessionsRequest, guestv1.ListSessionsResponse](ctx, g, "list sessions",
		guestv1.ProcessService_ListSessions_FullMethodName, &guestv1.ListSessionsRequest{})
	return resp.GetSessions(), err
}

// Processes iterates over the processes of the guest, by pid. After an error,
// which is the last element, the iteration ends.
func (g *Guest) Processes(ctx context.Context) iter.Seq2[*guestv1.ProcessInfo, error] {
	return func(yield func(*guestv1.ProcessInfo, error) bool) {
		const op, method = "list processes", guestv1.ProcessService_ListProcesses_FullMethodName
		fail := func(err error) { yield(nil, g.wrap(op, method, err)) }
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		st, resp, err := openReading(ctx, g, op, method, func(ctx context.Context) (grpc.ServerStreamingClient[guestv1.ListProcessesResponse], error) {
			return g.process.ListProcesses(ctx, &guestv1.ListProcessesRequest{})
		})
		if err != nil {
			fail(err)
			return
		}
		for n := 0; resp != nil; {
			// A message counts too, so that empty ones do not go on for ever.
			if n += 1 + len(resp.GetProcesses()); n > 2*maxProcesses {
				fail(protocolError("more than %d processes", maxProcesses))
				return
			}
			for _, p := range resp.GetProcesses() {
				if !yield(p, nil) {
					return
				}
			}
			if resp, err = st.Recv(); err == io.EOF {
				return
			}
			if err != nil {
				fail(err)
				return
			}
		}
	}
}

// SignalOptions say what a signal hits. The zero value, or a nil pointer, is the process
// alone.
type SignalOptions struct {
	// Group sends the signal to the process group. Of a session, SIGKILL to the group is
	// for everything that it has started.
	Group bool
	// StartTicks, if not 0, must be the process's guestv1.ProcessInfo.StartTicks: then
	// another process that has got the same pid is not hit. Of SignalProcess only.
	StartTicks uint64
}

// SignalSession sends a signal to a session's process.
func (g *Guest) SignalSession(ctx context.Context, id SessionID, sig Signal, opts *SignalOptions) error {
	return g.sendSignal(ctx, &guestv1.SignalRequest{Target: &guestv1.SignalRequest_SessionId{SessionId: id[:]}}, sig, opts)
}

// SignalProcess sends a signal to a process of the guest.
func (g *Guest) SignalProcess(ctx context.Context, pid uint32, sig Signal, opts *SignalOptions) error {
	return g.sendSignal(ctx, &guestv1.SignalRequest{Target: &guestv1.SignalRequest_Pid{Pid: pid}}, sig, opts)
}

func (g *Guest) sendSignal(ctx context.Context, req *guestv1.SignalRequest, sig Signal, opts *SignalOptions) error {
	if opts == nil {
		opts = &SignalOptions{}
	}
	req.Signal, req.Group, req.StartTicks = uint32(sig), opts.Group, opts.StartTicks
	_, err := g.process.Signal(ctx, req)
	return g.wrap("signal", guestv1.ProcessService_Signal_FullMethodName, err)
}

// WaitSession waits for the end of a session, across lost connections. The
// answer is the same each time, for as long as the agent keeps it.
func (g *Guest) WaitSession(ctx context.Context, id SessionID) (*ProcessState, error) {
	var exit *guestv1.Exit
	err := g.persist(ctx, "wait", guestv1.ProcessService_Wait_FullMethodName, func() error {
		resp, err := g.process.Wait(ctx, &guestv1.WaitRequest{SessionId: id[:]})
		exit = resp.GetExit()
		return err
	})
	if err != nil {
		return nil, err
	}
	if exit == nil || exit.Code == nil && exit.Signal == 0 {
		return nil, g.wrap("wait", "", protocolError("an exit with neither a code nor a signal"))
	}
	return &ProcessState{exit: exit}, nil
}

// RemoveOptions say how RemoveSession removes. The zero value, or a nil pointer, leaves
// a session alone that runs.
type RemoveOptions struct {
	// Force ends a session that runs.
	Force bool
}

// RemoveSession has the agent forget a session. One that runs is an error, unless
// opts say to end it.
func (g *Guest) RemoveSession(ctx context.Context, id SessionID, opts *RemoveOptions) error {
	if opts == nil {
		opts = &RemoveOptions{}
	}
	_, err := g.process.Remove(ctx, &guestv1.RemoveRequest{SessionId: id[:], Force: opts.Force})
	return g.wrap("remove session", guestv1.ProcessService_Remove_FullMethodName, err)
}

// WatchSessions iterates over the starts and ends of sessions from now on. It
// ends with an error, which is the last element, or when ctx is done.
func (g *Guest) WatchSessions(ctx context.Context) iter.Seq2[*guestv1.WatchSessionsResponse, error] {
	return func(yield func(*guestv1.WatchSessionsResponse, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		st, err := g.process.WatchSessions(ctx, &guestv1.WatchSessionsRequest{})
		for err == nil {
			var ev *guestv1.WatchSessionsResponse
			if ev, err = st.Recv(); err == nil && !yield(ev, nil) {
				return
			}
		}
		yield(nil, g.wrap("watch sessions", guestv1.ProcessService_WatchSessions_FullMethodName, err))
	}
}

// startSession starts a session with nobody attached, across lost connections:
// a start that is repeated with the same id starts nothing. Once a try may have
// reached one run of the agent, no other run is asked.
func (g *Guest) startSession(ctx context.Context, id SessionID, spec *guestv1.SessionSpec) (*guestv1.SessionInfo, error) {
	const op, method = "exec", guestv1.ProcessService_Start_FullMethodName
	var info *guestv1.SessionInfo
	var agentID string
	try := 0
	start := func() error {
		if try == 0 {
			info, err := g.met(ctx)
			if err != nil {
				return err
			}
			agentID = info.GetAgentId()
		}
		try++
		resp, err := g.process.Start(ctx, &guestv1.StartRequest{SessionId: id[:], Spec: spec, AgentId: agentID})
		info = resp.GetSession()
		return err
	}
	err := g.persist(ctx, op, method, start)
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != ReasonAgentRestarted {
		return info, err
	}
	if try > 1 {
		return nil, sessionLost(err.(*Error))
	}
	// It was restarted some time before.
	now, err := g.Info(ctx)
	if err != nil {
		return nil, err
	}
	agentID = now.AgentId
	err = g.persist(ctx, op, method, start)
	if e, ok := errors.AsType[*Error](err); ok && e.Reason == ReasonAgentRestarted {
		return nil, sessionLost(e)
	}
	return info, err
}
