package guest

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

type (
	execServer   = grpc.BidiStreamingServer[guestv1.ExecRequest, guestv1.ExecResponse]
	attachServer = grpc.BidiStreamingServer[guestv1.AttachRequest, guestv1.AttachResponse]
)

// fakeAgent is an agent whose answers a test scripts. It speaks stock gRPC.
type fakeAgent struct {
	guestv1.UnimplementedAgentServiceServer
	guestv1.UnimplementedProcessServiceServer

	mu       sync.Mutex
	info     *guestv1.InfoResponse
	exec     func(open *guestv1.Open, st execServer) error
	start    func(*guestv1.StartRequest) (*guestv1.StartResponse, error)
	wait     func(*guestv1.WaitRequest) (*guestv1.WaitResponse, error)
	signal   func(*guestv1.SignalRequest) (*guestv1.SignalResponse, error)
	processs func(st grpc.ServerStreamingServer[guestv1.ListProcessesResponse]) error

	listener *bufconn.Listener
	cut      func(net.Conn) net.Conn // wraps this side's connections
}

func newFakeAgent(t *testing.T, register ...func(grpc.ServiceRegistrar)) *fakeAgent {
	t.Helper()
	f := &fakeAgent{
		info:     &guestv1.InfoResponse{Version: "v1.2.3", ProtocolVersion: 1, AgentId: "run-1", Access: &guestv1.Access{Trusted: true}},
		listener: bufconn.Listen(64 << 10),
	}
	srv := grpc.NewServer()
	if len(register) == 0 {
		guestv1.RegisterAgentServiceServer(srv, f)
		guestv1.RegisterProcessServiceServer(srv, f)
	}
	for _, r := range register {
		r(srv)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(f.listener)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return f
}

func (f *fakeAgent) config() *Config {
	return &Config{Wire: WireGRPC, Reconnect: 20 * time.Second, Dialer: func(ctx context.Context) (net.Conn, error) {
		c, err := f.listener.DialContext(ctx)
		if err == nil && f.cut != nil {
			c = f.cut(c)
		}
		return c, err
	}}
}

func (f *fakeAgent) dial(t *testing.T) *Guest {
	t.Helper()
	g, err := Dial(t.Context(), "fake", f.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func (f *fakeAgent) Info(context.Context, *guestv1.InfoRequest) (*guestv1.InfoResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return proto.CloneOf(f.info), nil
}

func (f *fakeAgent) Exec(st execServer) error {
	m, err := st.Recv()
	if err != nil {
		return err
	}
	return f.exec(m.GetOpen(), st)
}

// Attach is served as Exec is: the messages are the same on the wire.
func (f *fakeAgent) Attach(st attachServer) error {
	return f.Exec(&grpc.GenericServerStream[guestv1.ExecRequest, guestv1.ExecResponse]{ServerStream: st})
}

func (f *fakeAgent) Start(_ context.Context, r *guestv1.StartRequest) (*guestv1.StartResponse, error) {
	return f.start(r)
}

func (f *fakeAgent) Wait(_ context.Context, r *guestv1.WaitRequest) (*guestv1.WaitResponse, error) {
	return f.wait(r)
}

func (f *fakeAgent) Signal(_ context.Context, r *guestv1.SignalRequest) (*guestv1.SignalResponse, error) {
	return f.signal(r)
}

func (f *fakeAgent) ListProcesses(_ *guestv1.ListProcessesRequest, st grpc.ServerStreamingServer[guestv1.ListProcessesResponse]) error {
	return f.processs(st)
}

// agentError is an error as the agent makes them.
func agentError(code codes.Code, reason, text string, errno syscall.Errno) error {
	st, err := status.New(code, text).WithDetails(&guestv1.ErrorDetail{Reason: reason, Remedy: "remedy of " + reason, Errno: uint32(errno), Operation: "exec", Path: []byte("/x")})
	if err != nil {
		return err
	}
	return st.Err()
}

func openedMessage(open *guestv1.Open) *guestv1.Opened {
	return &guestv1.Opened{
		Session:      &guestv1.SessionInfo{SessionId: open.SessionId, Pid: 42},
		StdoutOffset: open.StdoutOffset, StderrOffset: open.StderrOffset, StdinWindow: 64 << 10, AgentId: "run-1",
	}
}

func sendOpened(st execServer, m *guestv1.Opened) error {
	return st.Send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Opened{Opened: m}})
}

func sendOutput(st execServer, m *guestv1.Output) error {
	return st.Send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: m}})
}

func sendExit(st execServer, m *guestv1.Exit) error {
	return st.Send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: m}})
}

// model is a session of a fake agent that does all as the protocol says, and
// checks that its client does. Its process writes stdout and stderr, reads stdin
// to its end, and exits.
type model struct {
	t              *testing.T
	stdout, stderr []byte
	stdin          bool
	code           uint32
	piece          int // bytes in one message

	mu       sync.Mutex
	id       []byte
	starts   int
	attaches int
	got      []byte // of stdin
	gotEOF   bool
	acked    [2]uint64
	left     bool // the exit was acknowledged
	attached context.CancelCauseFunc
}

// serve is the fakeAgent's exec.
func (m *model) serve(open *guestv1.Open, st execServer) error {
	m.mu.Lock()
	if open.Spec != nil && m.id == nil {
		m.id = open.SessionId
		m.starts++
	}
	if string(open.SessionId) != string(m.id) {
		m.mu.Unlock()
		m.t.Errorf("attached to session %x, want %x", open.SessionId, m.id)
		return agentError(codes.NotFound, ReasonNoSession, "no such session", 0)
	}
	if open.StdoutOffset < m.acked[0] || open.StderrOffset < m.acked[1] {
		m.t.Errorf("attached at %d, %d, having acknowledged %v", open.StdoutOffset, open.StderrOffset, m.acked)
	}
	if open.AgentId != "run-1" {
		m.t.Errorf("attached with agent id %q", open.AgentId)
	}
	m.attaches++
	// The client that comes back takes over from its own dead connection.
	ctx, cancel := context.WithCancelCause(st.Context())
	if m.attached != nil {
		m.attached(errors.New("taken over"))
	}
	m.attached = cancel
	opened := openedMessage(open)
	opened.StdinOffset, opened.StdinEof = uint64(len(m.got)), m.gotEOF
	m.mu.Unlock()
	if err := sendOpened(st, opened); err != nil {
		return err
	}

	c := &modelClient{m: m, ctx: ctx, window: open.Window, wake: make(chan struct{}, 1), stdinEOF: !m.stdin || opened.StdinEof}
	c.next = [2]uint64{open.StdoutOffset, open.StderrOffset}
	c.limit = [2]uint64{open.StdoutOffset + open.Window, open.StderrOffset + open.Window}
	go c.receive(st)
	return c.send(st)
}

type modelClient struct {
	m      *model
	ctx    context.Context
	window uint64
	wake   chan struct{}

	mu          sync.Mutex
	next, limit [2]uint64
	eof         [2]bool
	ackStdin    bool
	stdinEOF    bool
	left        bool
	gone        bool
}

func (c *modelClient) receive(st execServer) {
	for {
		r, err := st.Recv()
		c.m.mu.Lock()
		c.mu.Lock()
		if err != nil {
			c.gone = true
		} else if c.ctx.Err() == nil {
			c.take(r)
		}
		c.mu.Unlock()
		c.m.mu.Unlock()
		select {
		case c.wake <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (c *modelClient) take(r *guestv1.ExecRequest) {
	switch r := r.Message.(type) {
	case *guestv1.ExecRequest_FlowControl:
		i := int(r.FlowControl.Stream - guestv1.Stream_STREAM_STDOUT)
		if r.FlowControl.ConsumedOffset > c.next[i] {
			c.m.t.Errorf("acknowledged %d of stream %d, sent %d", r.FlowControl.ConsumedOffset, i, c.next[i])
		}
		c.m.acked[i] = max(c.m.acked[i], r.FlowControl.ConsumedOffset)
		c.limit[i] = r.FlowControl.ConsumedOffset + r.FlowControl.Window
	case *guestv1.ExecRequest_Input:
		if r.Input.Offset != uint64(len(c.m.got)) {
			c.m.t.Errorf("stdin continues at %d, want %d", r.Input.Offset, len(c.m.got))
			return
		}
		c.m.got = append(c.m.got, r.Input.Data...)
		c.m.gotEOF = c.m.gotEOF || r.Input.Eof
		c.stdinEOF, c.ackStdin = c.m.gotEOF, true
	case *guestv1.ExecRequest_Leave:
		c.left = true
		c.m.left = true
	}
}

func (c *modelClient) send(st execServer) error {
	for {
		m, exit := c.message()
		if m != nil {
			if err := st.Send(m); err != nil {
				return err
			}
			if !exit {
				continue
			}
			// The client answers the exit.
			for !c.is(func() bool { return c.left || c.gone }) {
				select {
				case <-c.wake:
				case <-c.ctx.Done():
					return status.Error(codes.Aborted, "taken over")
				}
			}
			return nil
		}
		select {
		case <-c.wake:
		case <-c.ctx.Done():
			return status.Error(codes.Aborted, "taken over")
		}
	}
}

func (c *modelClient) is(f func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f()
}

// message returns what is sent next; exit says that it is the last.
func (c *modelClient) message() (m *guestv1.ExecResponse, exit bool) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ackStdin {
		c.ackStdin = false
		return &guestv1.ExecResponse{Message: &guestv1.ExecResponse_FlowControl{FlowControl: &guestv1.FlowControl{
			Stream: guestv1.Stream_STREAM_STDIN, ConsumedOffset: uint64(len(c.m.got)), Window: 64 << 10}}}, false
	}
	data := [2][]byte{c.m.stdout, c.m.stderr}
	ended := true
	for i := range data {
		from := c.next[i]
		n := min(uint64(c.m.piece), uint64(len(data[i]))-from, c.limit[i]-from)
		last := from+n == uint64(len(data[i]))
		if n > 0 || last && !c.eof[i] {
			c.next[i] += n
			c.eof[i] = last
			return &guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: &guestv1.Output{
				Stream: guestv1.Stream_STREAM_STDOUT + guestv1.Stream(i), Offset: from, Data: data[i][from : from+n], Eof: last}}}, false
		}
		ended = ended && c.eof[i]
	}
	if !ended || !c.stdinEOF {
		return nil, false
	}
	return &guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: &guestv1.Exit{
		Code: proto.Uint32(c.m.code), StdoutBytes: uint64(len(c.m.stdout)), StderrBytes: uint64(len(c.m.stderr)), StdinBytes: uint64(len(c.m.got))}}}, true
}

// cutConn is a connection that breaks after so many bytes were read from it.
type cutConn struct {
	net.Conn
	mu   sync.Mutex
	left int
}

func (c *cutConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	left := c.left
	c.mu.Unlock()
	if left <= 0 {
		c.Conn.Close()
		return 0, &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	}
	n, err := c.Conn.Read(p[:min(len(p), left)])
	c.mu.Lock()
	c.left -= n
	c.mu.Unlock()
	return n, err
}

// drain reads requests until the client has no more to say.
func drain(st execServer) {
	for {
		if _, err := st.Recv(); err != nil {
			return
		}
	}
}
