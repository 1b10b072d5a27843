package guest

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const stdoutStream = guestv1.Stream_STREAM_STDOUT

// TestHostileAgent has an agent break the protocol in every way. Each ends the
// command with a coded error and no more than the window in memory.
func TestHostileAgent(t *testing.T) {
	out := func(m *guestv1.Output) func(execServer) {
		return func(st execServer) { sendOutput(st, m) }
	}
	exit := func(m *guestv1.Exit) func(execServer) {
		return func(st execServer) { sendExit(st, m) }
	}
	flow := func(m *guestv1.FlowControl) func(execServer) {
		return func(st execServer) {
			st.Send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_FlowControl{FlowControl: m}})
		}
	}
	tests := []struct {
		name   string
		opened func(*guestv1.Opened)
		send   func(execServer)
		reason string
	}{
		{name: "gap", send: out(&guestv1.Output{Stream: stdoutStream, Offset: 5, Data: []byte("x")})},
		{name: "repeat", send: func(st execServer) {
			out(&guestv1.Output{Stream: stdoutStream, Data: []byte("abc")})(st)
			out(&guestv1.Output{Stream: stdoutStream, Offset: 1, Data: []byte("bc")})(st)
		}},
		{name: "offset at the end of numbers", send: out(&guestv1.Output{Stream: stdoutStream, Offset: math.MaxUint64, Data: []byte("x")})},
		{name: "announced loss under block", send: out(&guestv1.Output{Stream: stdoutStream, Offset: 5, Lost: 5, Data: []byte("x")}), reason: ReasonOutputLost},
		{name: "more lost than there was", send: out(&guestv1.Output{Stream: stdoutStream, Offset: 5, Lost: 6, Data: []byte("x")})},
		{name: "empty output", send: out(&guestv1.Output{Stream: stdoutStream})},
		{name: "after the end", send: func(st execServer) {
			out(&guestv1.Output{Stream: stdoutStream, Data: []byte("a"), Eof: true})(st)
			out(&guestv1.Output{Stream: stdoutStream, Offset: 1, Data: []byte("b")})(st)
		}},
		{name: "output of stdin", send: out(&guestv1.Output{Stream: guestv1.Stream_STREAM_STDIN, Data: []byte("a")})},
		{name: "output of no stream", send: out(&guestv1.Output{Stream: 77, Data: []byte("a")})},
		{name: "beyond the window", send: func(st execServer) {
			data := make([]byte, 64<<10)
			for off := uint64(0); ; off += uint64(len(data)) {
				if sendOutput(st, &guestv1.Output{Stream: stdoutStream, Offset: off, Data: data}) != nil {
					return
				}
			}
		}},
		{name: "flow control of stdout", send: flow(&guestv1.FlowControl{Stream: stdoutStream})},
		{name: "stdin taken that was not sent", send: flow(&guestv1.FlowControl{Stream: guestv1.Stream_STREAM_STDIN, ConsumedOffset: 1 << 40})},
		{name: "stdin window overflows", send: func(st execServer) {
			st.Recv()
			flow(&guestv1.FlowControl{Stream: guestv1.Stream_STREAM_STDIN, ConsumedOffset: 4, Window: math.MaxUint64})(st)
		}},
		{name: "exit without code and signal", send: exit(&guestv1.Exit{})},
		{name: "exit before the output", send: exit(&guestv1.Exit{Code: proto.Uint32(0), StdoutBytes: 10})},
		{name: "a second opened, for ever", send: func(st execServer) {
			for sendOpened(st, &guestv1.Opened{}) == nil {
			}
		}},
		{name: "no exit", send: func(execServer) {}},
		{name: "another session", opened: func(m *guestv1.Opened) { m.Session.SessionId = make([]byte, 16) }},
		{name: "no session", opened: func(m *guestv1.Opened) { m.Session = nil }},
		{name: "starts later", opened: func(m *guestv1.Opened) { m.StdoutOffset = 9 }, reason: ReasonOutputLost},
		{name: "starts at the end of numbers", opened: func(m *guestv1.Opened) { m.StderrOffset = math.MaxUint64 }, reason: ReasonOutputLost},
		{name: "has stdin already", opened: func(m *guestv1.Opened) { m.StdinOffset = 5 }},
		{name: "has the end of stdin already", opened: func(m *guestv1.Opened) { m.StdinEof = true }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeAgent(t)
			f.exec = func(open *guestv1.Open, st execServer) error {
				m := openedMessage(open)
				if tt.opened != nil {
					tt.opened(m)
				}
				sendOpened(st, m)
				if tt.send != nil {
					tt.send(st)
					return nil
				}
				drain(st)
				return nil
			}
			cmd := f.dial(t).Command(t.Context(), "x")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer pipe.Close()
			if err = cmd.Start(); err == nil {
				in.Write([]byte("data"))
				<-cmd.s.done
				cmd.io.mu.Lock()
				held := 0
				for _, p := range cmd.io.out[0].pieces {
					held += cap(p.data)
				}
				cmd.io.mu.Unlock()
				if held > 2*defaultWindow {
					t.Errorf("%d bytes are held", held)
				}
				err = cmd.Wait()
			}
			want := tt.reason
			if want == "" {
				want = ReasonProtocol
			}
			if e, ok := errors.AsType[*Error](err); !ok || e.Reason != want || e.Op != "exec" || e.Guest != "fake" {
				t.Errorf("got %v, want reason %s", err, want)
			}
		})
	}
}

// TestHostileProcesses has an agent list processes without end.
func TestHostileProcesses(t *testing.T) {
	defer func(n int) { maxProcesses = n }(maxProcesses)
	maxProcesses = 100_000
	f := newFakeAgent(t)
	f.processs = func(st grpc.ServerStreamingServer[guestv1.ListProcessesResponse]) error {
		m := &guestv1.ListProcessesResponse{}
		for range 10_000 {
			m.Processes = append(m.Processes, &guestv1.ProcessInfo{Pid: 1})
		}
		for st.Send(m) == nil {
		}
		return nil
	}
	var last error
	n := 0
	for _, err := range f.dial(t).Processes(t.Context()) {
		last = err
		n++
	}
	if e, ok := errors.AsType[*Error](last); !ok || e.Reason != ReasonProtocol || n > 2*maxProcesses+10_000 {
		t.Errorf("after %d processes: %v", n, last)
	}
}

// TestSmallPieces has an agent send single bytes: they do not cost a slice each.
func TestSmallPieces(t *testing.T) {
	f := newFakeAgent(t)
	const n = 20_000
	f.exec = func(open *guestv1.Open, st execServer) error {
		sendOpened(st, openedMessage(open))
		for i := range n {
			sendOutput(st, &guestv1.Output{Stream: stdoutStream, Offset: uint64(i), Data: []byte{byte(i)}})
		}
		return sendExit(st, &guestv1.Exit{Code: proto.Uint32(0), StdoutBytes: n})
	}
	cmd := f.dial(t).Command(t.Context(), "x")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-cmd.s.done
	cmd.io.mu.Lock()
	pieces := len(cmd.io.out[0].pieces)
	cmd.io.mu.Unlock()
	if pieces > 1+n/coalesceUpTo {
		t.Errorf("%d pieces are held for %d bytes", pieces, n)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(pipe); err != nil || got.Len() != n {
		t.Errorf("read %d bytes, %v", got.Len(), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestObserver shows that an observer is told what it lost, where it is lost.
func TestObserver(t *testing.T) {
	f := newFakeAgent(t)
	f.exec = func(open *guestv1.Open, st execServer) error {
		if open.Role != guestv1.Role_ROLE_OBSERVER || open.Name != "build" || !open.FromOldest {
			t.Errorf("attached with %v", open)
		}
		open.SessionId = make([]byte, 16)
		m := openedMessage(open)
		m.StdoutOffset = 100
		sendOpened(st, m)
		sendOutput(st, &guestv1.Output{Stream: stdoutStream, Offset: 100, Data: []byte("ab")})
		sendOutput(st, &guestv1.Output{Stream: stdoutStream, Offset: 1102, Lost: 1000, Data: []byte("cd")})
		sendOutput(st, &guestv1.Output{Stream: stdoutStream, Offset: 1109, Lost: 5, Eof: true})
		return sendExit(st, &guestv1.Exit{Code: proto.Uint32(0), StdoutBytes: 1109})
	}
	var got strings.Builder
	cmd := f.dial(t).Attach(t.Context(), "build", &AttachOptions{Observer: true, FromOldest: true})
	cmd.Stdout = &got
	cmd.OnGap = func(fd int, offset, n uint64) {
		got.WriteString(strings.Repeat("-", int(n/500)))
		if fd != 1 || offset != 102 && offset != 1104 {
			t.Errorf("gap of %d at %d of %d", n, offset, fd)
		}
	}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if got.String() != "ab--cd" || cmd.ProcessState.Lost(1) != 1005 {
		t.Errorf("got %q, lost %d", got.String(), cmd.ProcessState.Lost(1))
	}
}

// TestSkew has agents of other versions: what they lack is named.
func TestSkew(t *testing.T) {
	t.Run("no agent at all", func(t *testing.T) {
		f := newFakeAgent(t, func(grpc.ServiceRegistrar) {})
		_, err := Dial(t.Context(), "fake", f.config())
		if e, ok := errors.AsType[*Error](err); !ok || e.Reason != ReasonNotAnAgent {
			t.Errorf("Dial: %v, want reason %s", err, ReasonNotAnAgent)
		}
	})
	t.Run("no processes", func(t *testing.T) {
		old := &fakeAgent{info: &guestv1.InfoResponse{Version: "v0.0.1"}}
		f := newFakeAgent(t, func(r grpc.ServiceRegistrar) { guestv1.RegisterAgentServiceServer(r, old) })
		g, err := Dial(t.Context(), "fake", f.config())
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		_, listErr := g.Sessions(t.Context())
		for what, err := range map[string]error{
			"exec":             g.Command(t.Context(), "x").Run(),
			"listing sessions": listErr,
			"signals":          g.SignalProcess(t.Context(), 1, 15, nil),
		} {
			want := "agent too old for " + what + " (agent version v0.0.1, protocol 0; needs protocol 1)"
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Reason != ReasonAgentTooOld || e.Message() != want || e.Remedy == "" {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	})
	t.Run("no fields of today", func(t *testing.T) {
		// An agent that knows neither its own id nor what it has of stdin, and
		// does not wait for the exit to be acknowledged.
		f := newFakeAgent(t)
		f.info = &guestv1.InfoResponse{}
		f.exec = func(open *guestv1.Open, st execServer) error {
			sendOpened(st, &guestv1.Opened{Session: &guestv1.SessionInfo{SessionId: open.SessionId}})
			sendOutput(st, &guestv1.Output{Stream: stdoutStream, Data: []byte("x")})
			return sendExit(st, &guestv1.Exit{Code: proto.Uint32(0)})
		}
		out, err := f.dial(t).Command(t.Context(), "x").Output()
		if string(out) != "x" || err != nil {
			t.Errorf("Output: %q, %v", out, err)
		}
	})
	t.Run("messages of tomorrow", func(t *testing.T) {
		f := newFakeAgent(t)
		f.exec = func(open *guestv1.Open, st execServer) error {
			sendOpened(st, openedMessage(open))
			m := &guestv1.ExecResponse{}
			m.ProtoReflect().SetUnknown([]byte{0xa2, 0x06, 0x01, 'x'}) // field 100
			st.Send(m)
			return sendExit(st, &guestv1.Exit{Code: proto.Uint32(0)})
		}
		if err := f.dial(t).Command(t.Context(), "x").Run(); err != nil {
			t.Error(err)
		}
	})
}

// TestRefused shows the agent's own words for a caller that it does not trust.
func TestRefused(t *testing.T) {
	f := newFakeAgent(t)
	f.exec = func(*guestv1.Open, execServer) error {
		return agentError(codes.PermissionDenied, "refused", "not the host's root", 0)
	}
	err := f.dial(t).Command(t.Context(), "x").Run()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != codes.PermissionDenied || e.Reason != "refused" || e.Remedy != "remedy of refused" || string(e.Path) != "/x" {
		t.Errorf("got %#v", e)
	}
}

// TestCloseEndsCommands shows that Close does not leave a command waiting.
func TestCloseEndsCommands(t *testing.T) {
	f := newFakeAgent(t)
	f.exec = func(open *guestv1.Open, st execServer) error {
		sendOpened(st, openedMessage(open))
		<-st.Context().Done()
		return nil
	}
	g := f.dial(t)
	cmd := g.Command(t.Context(), "x")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	g.Close()
	select {
	case err := <-ended:
		if e, ok := errors.AsType[*Error](err); !ok || e.Reason != ReasonClosed {
			t.Errorf("Wait: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Wait does not return")
	}
}
