package guesttest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// processes is a ProcessService whose sessions end with their call.
type processes struct {
	guestv1.UnimplementedProcessServiceServer
	agentID string

	mu      sync.Mutex
	running map[string]*os.Process // by session id
}

// stdinWindow is how many bytes of stdin may come ahead of the program.
const stdinWindow = 256 << 10

// maxOutput is the size of a message with output.
const maxOutput = 32 << 10

// outputWait is how long the output of a program that was ended has to come.
const outputWait = time.Second

// execution is one command.
type execution struct {
	st  grpc.BidiStreamingServer[guestv1.ExecRequest, guestv1.ExecResponse]
	cmd *exec.Cmd
	in  io.WriteCloser // nil without stdin

	sent  sync.Mutex // one Send at a time
	ended bool       // the exit was sent, after which nothing may follow; guarded by sent

	mu       sync.Mutex
	changed  *sync.Cond
	consumed [2]uint64 // of stdout and stderr, by the client
	written  [2]uint64 // of them, by the program
	window   uint64
	inputs   []*guestv1.Input // for stdin, stdinWindow bytes at most
	gone     bool             // the client is
}

// Exec runs a command until it has ended or its caller is gone.
func (p *processes) Exec(st grpc.BidiStreamingServer[guestv1.ExecRequest, guestv1.ExecResponse]) error {
	m, err := st.Recv()
	if err != nil {
		return err
	}
	open := m.GetOpen()
	if open.GetSpec() == nil {
		return refuse(codes.NotFound, "no-session", "no such session: guesttest ends a session with its connection", &guestv1.ErrorDetail{})
	}
	ctx, cancel := context.WithCancel(st.Context())
	defer cancel()
	if ms := open.Spec.TimeoutMillis; ms > 0 {
		var stop func()
		ctx, stop = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer stop()
	}
	e := &execution{st: st, window: max(open.Window, maxOutput)}
	e.changed = sync.NewCond(&e.mu)
	if e.cmd, err = command(ctx, open.Spec); err != nil {
		return err
	}
	outs, err := e.start(open.Spec)
	if err != nil {
		return fail("exec", open.Spec.Args[0], err)
	}
	// What the program has started may hold its output open.
	defer context.AfterFunc(ctx, func() {
		time.Sleep(outputWait)
		for _, r := range outs {
			r.Close()
		}
	})()
	id := string(open.SessionId)
	p.keep(id, e.cmd.Process)
	defer p.keep(id, nil)
	began := time.Now()
	opened := &guestv1.Opened{AgentId: p.agentID, StdinWindow: stdinWindow,
		Session: &guestv1.SessionInfo{SessionId: open.SessionId, Pid: uint32(e.cmd.Process.Pid), Args: open.Spec.Args, HasOwner: true}}
	left := make(chan struct{})
	err = e.send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Opened{Opened: opened}})
	go func() {
		defer close(left)
		e.receive(cancel)
	}()
	go e.feed()
	var pumps sync.WaitGroup
	for i, r := range outs {
		pumps.Go(func() { e.pump(i, r) })
	}
	pumps.Wait()
	exit := exitOf(e.cmd.Wait(), e.cmd.ProcessState)
	exit.StartUnixNanos, exit.EndUnixNanos = began.UnixNano(), time.Now().UnixNano()
	exit.TimedOut = errors.Is(ctx.Err(), context.DeadlineExceeded)
	exit.StdoutBytes, exit.StderrBytes = e.written[0], e.written[1]
	if err == nil {
		err = e.send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: exit}})
	}
	if err == nil {
		<-left // all was consumed
	}
	return err
}

// command makes the command of a session.
func command(ctx context.Context, spec *guestv1.SessionSpec) (*exec.Cmd, error) {
	switch {
	case spec.Terminal != nil:
		return nil, missing("terminals")
	case len(spec.User) > 0 || len(spec.Group) > 0:
		return nil, missing("commands of other users")
	case spec.Limits != nil:
		return nil, missing("limits")
	case spec.LoginShell || len(spec.Args) == 0:
		return nil, missing("login shell")
	}
	var args []string
	for _, a := range spec.Args {
		args = append(args, string(a))
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if cmd.Err != nil {
		return nil, refuse(codes.NotFound, "not-found", "exec "+args[0]+": not found", &guestv1.ErrorDetail{Operation: "exec", Path: spec.Args[0], Errno: 2})
	}
	if spec.Arg0 != nil {
		cmd.Args[0] = string(spec.Arg0)
	}
	cmd.Dir = string(spec.Dir)
	if cmd.Dir == "" {
		cmd.Dir, _ = os.UserHomeDir() // else the test's own
	}
	if !spec.ClearEnv {
		cmd.Env = os.Environ()
	}
	for _, v := range spec.Env {
		cmd.Env = append(cmd.Env, string(v))
	}
	return cmd, nil
}

// start starts the command and returns its output.
func (e *execution) start(spec *guestv1.SessionSpec) (outs []*os.File, err error) {
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	e.cmd.Stdout, e.cmd.Stderr = w, w
	outs = []*os.File{out}
	ends := []*os.File{w}
	if !spec.StderrToStdout {
		errOut, w, err := os.Pipe()
		if err != nil {
			return nil, errors.Join(err, out.Close(), ends[0].Close())
		}
		e.cmd.Stderr = w
		outs, ends = append(outs, errOut), append(ends, w)
	}
	if spec.Stdin {
		if e.in, err = e.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	err = e.cmd.Start()
	for _, w := range ends {
		w.Close()
	}
	return outs, err
}

func (e *execution) send(m *guestv1.ExecResponse) error {
	e.sent.Lock()
	defer e.sent.Unlock()
	if e.ended {
		return nil
	}
	e.ended = m.GetExit() != nil
	return e.st.Send(m)
}

// pump sends what the program writes to stdout (0) or stderr (1), as fast as the client
// takes it in.
func (e *execution) pump(i int, r *os.File) {
	defer r.Close()

	buf := make([]byte, maxOutput)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			e.mu.Lock()
			for !e.gone && e.written[i]+uint64(n) > e.consumed[i]+e.window {
				e.changed.Wait()
			}
			offset := e.written[i]
			e.written[i] += uint64(n)
			gone := e.gone
			e.mu.Unlock()
			if !gone {
				// The end of the stream is seen by receive.
				_ = e.send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: &guestv1.Output{
					Stream: guestv1.Stream_STREAM_STDOUT + guestv1.Stream(i), Offset: offset, Data: append([]byte(nil), buf[:n]...)}}})
			}
		}
		if err != nil {
			return
		}
	}
}

// receive takes in what the client sends until it leaves or is gone; then kill ends what
// still runs.
func (e *execution) receive(kill func()) {
	defer func() {
		kill()
		e.mu.Lock()
		e.gone = true
		e.mu.Unlock()
		e.changed.Broadcast()
	}()
	for {
		m, err := e.st.Recv()
		if err != nil {
			return
		}
		switch m := m.Message.(type) {
		case *guestv1.ExecRequest_Input:
			e.mu.Lock()
			e.inputs = append(e.inputs, m.Input)
			e.mu.Unlock()
			e.changed.Broadcast()
		case *guestv1.ExecRequest_FlowControl:
			e.mu.Lock()
			if i := m.FlowControl.Stream - guestv1.Stream_STREAM_STDOUT; i == 0 || i == 1 {
				e.consumed[i] = max(e.consumed[i], m.FlowControl.ConsumedOffset)
			}
			e.mu.Unlock()
			e.changed.Broadcast()
		case *guestv1.ExecRequest_Signal:
			// It may have ended.
			_ = signal(e.cmd.Process, m.Signal.Signal)
		case *guestv1.ExecRequest_Leave:
			return
		}
	}
}

// feed writes to the program's stdin what has come, until that ends or the client is
// gone.
func (e *execution) feed() {
	if e.in == nil {
		return
	}
	defer e.in.Close()
	for {
		e.mu.Lock()
		for len(e.inputs) == 0 && !e.gone {
			e.changed.Wait()
		}
		if e.gone {
			e.mu.Unlock()
			return
		}
		in := e.inputs[0]
		e.inputs = e.inputs[1:]
		e.mu.Unlock()
		// A program that does not read any more loses the rest, as from a shell.
		_, _ = e.in.Write(in.Data)
		// The end of the stream is seen by receive.
		_ = e.send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_FlowControl{FlowControl: &guestv1.FlowControl{
			Stream: guestv1.Stream_STREAM_STDIN, ConsumedOffset: in.Offset + uint64(len(in.Data)), Window: stdinWindow}}})
		if in.Eof {
			return
		}
	}
}

// exitOf describes how a command has ended.
func exitOf(err error, state *os.ProcessState) *guestv1.Exit {
	exit := &guestv1.Exit{Usage: &guestv1.ResourceUsage{}}
	if state == nil {
		exit.Code, exit.Reason = new(uint32(1)), err.Error()
		return exit
	}
	exit.Usage.UserMicros, exit.Usage.SystemMicros = uint64(state.UserTime().Microseconds()), uint64(state.SystemTime().Microseconds())
	if sig := signalOf(state); sig > 0 {
		exit.Signal = uint32(sig)
		return exit
	}
	exit.Code = new(uint32(state.ExitCode()) & 0xff)
	return exit
}

// signal sends a signal, by its number on Linux.
func signal(p *os.Process, n uint32) error {
	switch n {
	case 2:
		return p.Signal(os.Interrupt)
	case 9:
		return p.Kill()
	}
	return p.Signal(syscall.Signal(n))
}

func (p *processes) keep(id string, process *os.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		p.running = make(map[string]*os.Process)
	}
	if p.running[id] = process; process == nil {
		delete(p.running, id)
	}
}

// Signal sends a signal to a session's program.
func (p *processes) Signal(_ context.Context, r *guestv1.SignalRequest) (*guestv1.SignalResponse, error) {
	p.mu.Lock()
	process := p.running[string(r.GetSessionId())]
	p.mu.Unlock()
	if process == nil {
		return nil, refuse(codes.NotFound, "no-process", "no such process", &guestv1.ErrorDetail{Errno: 3})
	}
	return &guestv1.SignalResponse{}, fail("signal", nil, signal(process, r.Signal))
}
