package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return b
}

// runModel runs a command on a model and checks that nothing is lost, repeated,
// or run twice.
func runModel(t *testing.T, f *fakeAgent, m *model, stdin []byte) {
	t.Helper()
	f.exec = m.serve
	g, err := Dial(t.Context(), "fake", f.config())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := g.Command(ctx, "model")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if m.stdin {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	err = cmd.Run()
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.ExitCode() != int(m.code) {
		t.Fatalf("Run: %v, want exit code %d", err, m.code)
	}
	g.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Equal(stdout.Bytes(), m.stdout) || !bytes.Equal(stderr.Bytes(), m.stderr) {
		t.Errorf("got %d and %d bytes of output, want %d and %d, equal", stdout.Len(), stderr.Len(), len(m.stdout), len(m.stderr))
	}
	if !bytes.Equal(m.got, stdin) {
		t.Errorf("the process got %d bytes of stdin, want %d, equal", len(m.got), len(stdin))
	}
	if m.starts != 1 {
		t.Errorf("started %d times", m.starts)
	}
	if !m.left {
		t.Error("the exit was not acknowledged")
	}
}

// TestResumeAtEveryCut breaks the first connection after every number of bytes
// that the agent sends on it.
func TestResumeAtEveryCut(t *testing.T) {
	// How many bytes a whole run is long.
	newModel := func(t *testing.T) *model {
		return &model{t: t, stdout: randomBytes(1, 150), stderr: randomBytes(2, 40), stdin: true, code: 7, piece: 60}
	}
	stdin := randomBytes(3, 100)
	f := newFakeAgent(t)
	var total atomic.Int64
	f.cut = func(c net.Conn) net.Conn { return &countingConn{Conn: c, n: &total} }
	runModel(t, f, newModel(t), stdin)

	// Most of the time of each is spent waiting for the second connection.
	var cuts errgroup.Group
	cuts.SetLimit(32)
	for at := 1; at <= int(total.Load()); at++ {
		cuts.Go(func() error {
			f := newFakeAgent(t)
			var first sync.Once
			f.cut = func(c net.Conn) net.Conn {
				first.Do(func() { c = &cutConn{Conn: c, left: at} })
				return c
			}
			if err := runCut(t, f, newModel(t), stdin); err != nil {
				return fmt.Errorf("cut after %d bytes: %w", at, err)
			}
			return nil
		})
	}
	if err := cuts.Wait(); err != nil {
		t.Error(err)
	}
}

// runCut runs a command on a model whose first connection breaks.
func runCut(t *testing.T, f *fakeAgent, m *model, stdin []byte) error {
	f.exec = m.serve
	g, err := Dial(t.Context(), "fake", f.config())
	if err != nil {
		// The agent had not answered: nothing was to be resumed.
		if !Temporary(err) {
			return fmt.Errorf("dial: %w, want a temporary error", err)
		}
		return nil
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := g.Command(ctx, "model")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.ExitCode() != int(m.code) {
		return fmt.Errorf("run: %w, want exit code %d", err, m.code)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Equal(stdout.Bytes(), m.stdout) || !bytes.Equal(stderr.Bytes(), m.stderr) || !bytes.Equal(m.got, stdin) || m.starts != 1 {
		return fmt.Errorf("stdout %d, stderr %d, stdin %d bytes, %d starts", stdout.Len(), stderr.Len(), len(m.got), m.starts)
	}
	return nil
}

type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// TestResumeManyCuts breaks every connection after a random number of bytes,
// with streams several times as long as the window.
func TestResumeManyCuts(t *testing.T) {
	f := newFakeAgent(t)
	r := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	cuts := 0
	f.cut = func(c net.Conn) net.Conn {
		mu.Lock()
		defer mu.Unlock()
		if cuts++; cuts == 1 {
			return &cutConn{Conn: c, left: 200 << 10}
		}
		return &cutConn{Conn: c, left: 64<<10 + r.IntN(1<<20)}
	}
	m := &model{t: t, stdout: randomBytes(1, 6<<20), stderr: randomBytes(2, 2<<20), stdin: true, code: 3, piece: 32 << 10}
	runModel(t, f, m, randomBytes(3, 3<<20))
	if m.attaches < 5 {
		t.Errorf("attached %d times only", m.attaches)
	}
}

// TestResumeGivesUp shows the error when the connection does not come back.
func TestResumeGivesUp(t *testing.T) {
	f := newFakeAgent(t)
	cfg := f.config()
	cfg.Reconnect = 300 * time.Millisecond
	dialer := cfg.Dialer
	var down atomic.Bool
	var conn net.Conn
	cfg.Dialer = func(ctx context.Context) (net.Conn, error) {
		if down.Load() {
			return nil, errors.New("the VM is gone")
		}
		c, err := dialer(ctx)
		conn = c
		return c, err
	}
	f.exec = func(open *guestv1.Open, st execServer) error {
		sendOpened(st, openedMessage(open))
		<-st.Context().Done()
		return nil
	}
	g, err := Dial(t.Context(), "fake", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	cmd := g.Command(t.Context(), "x")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	conn.Close()
	e, ok := errors.AsType[*Error](cmd.Wait())
	if !ok || e.Reason != ReasonUnreachable || e.Code != codes.Unavailable {
		t.Errorf("Wait: %v, want reason %s", e, ReasonUnreachable)
	}
}

// TestSessionLost shows what is told when the agent was restarted, and that
// nothing is started by it.
func TestSessionLost(t *testing.T) {
	f := newFakeAgent(t)
	var opens []*guestv1.Open
	f.exec = func(open *guestv1.Open, st execServer) error {
		opens = append(opens, open)
		if len(opens) == 1 {
			sendOpened(st, openedMessage(open))
			return status.Error(codes.Unavailable, "connection reset")
		}
		return agentError(codes.Unavailable, ReasonAgentRestarted, "agent restarted", 0)
	}
	g := f.dial(t)
	e, ok := errors.AsType[*Error](g.Command(t.Context(), "x").Run())
	if !ok || e.Reason != ReasonSessionLost {
		t.Fatalf("Run: %v, want reason %s", e, ReasonSessionLost)
	}
	if len(opens) != 2 || opens[1].Spec != nil || opens[1].AgentId != "run-1" {
		t.Errorf("attached again with %v, want no spec and the agent's id", opens[1:])
	}
}

// TestKillAndResizeAfterCut shows that a kill and a terminal's size that a cut has
// swallowed are said again.
func TestKillAndResizeAfterCut(t *testing.T) {
	f := newFakeAgent(t)
	started := make(chan struct{})
	attempts := 0
	f.exec = func(open *guestv1.Open, st execServer) error {
		sendOpened(st, openedMessage(open))
		if attempts++; attempts == 1 {
			close(started)
		}
		var kill *guestv1.SendSignal
		var size *guestv1.WindowSize
		for kill == nil || size == nil {
			m, err := st.Recv()
			if err != nil {
				return err
			}
			if m.GetSignal() != nil {
				kill = m.GetSignal()
			}
			if m.GetWindowSize() != nil {
				size = m.GetWindowSize()
			}
		}
		if kill.Signal != 9 || size.Rows != 33 || size.Columns != 44 {
			t.Errorf("attempt %d: signal %v, size %v", attempts, kill, size)
		}
		if attempts == 1 {
			return status.Error(codes.Unavailable, "connection reset")
		}
		return sendExit(st, &guestv1.Exit{Signal: 9})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := f.dial(t).Command(ctx, "x")
	cmd.Terminal = &Terminal{Rows: 24, Columns: 80}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-started
	if err := cmd.Process.Resize(33, 44); err != nil {
		t.Error(err)
	}
	cancel()
	if err := cmd.Wait(); cmd.ProcessState == nil || cmd.ProcessState.Signal() != 9 || attempts != 2 {
		t.Errorf("Wait: %v after %d attempts, want signal 9 after 2", err, attempts)
	}
}

// TestRestartBefore shows that an agent which was restarted before a command is
// no obstacle to it: nothing was lost.
func TestRestartBefore(t *testing.T) {
	f := newFakeAgent(t)
	m := &model{t: t, stdout: []byte("out"), piece: 10, code: 1}
	tries := 0
	f.exec = func(open *guestv1.Open, st execServer) error {
		if tries++; open.AgentId != "run-2" {
			return agentError(codes.Unavailable, ReasonAgentRestarted, "agent restarted", 0)
		}
		open.AgentId = "run-1"
		return m.serve(open, st)
	}
	g := f.dial(t)
	f.mu.Lock()
	f.info.AgentId = "run-2"
	f.mu.Unlock()
	out, err := g.Command(t.Context(), "x").Output()
	if _, ok := errors.AsType[*ExitError](err); !ok || string(out) != "out" || tries != 2 {
		t.Errorf("Output: %q, %v after %d tries", out, err, tries)
	}
}

// TestStartCutAmbiguous shows that a start which may have run in an agent that
// is no more is not repeated.
func TestStartCutAmbiguous(t *testing.T) {
	f := newFakeAgent(t)
	tries := 0
	f.exec = func(open *guestv1.Open, st execServer) error {
		if tries++; tries == 1 {
			return status.Error(codes.Unavailable, "connection reset")
		}
		return agentError(codes.Unavailable, ReasonAgentRestarted, "agent restarted", 0)
	}
	e, ok := errors.AsType[*Error](f.dial(t).Command(t.Context(), "x").Run())
	if !ok || e.Reason != ReasonSessionLost || tries != 2 {
		t.Errorf("Run: %v after %d tries, want reason %s after 2", e, tries, ReasonSessionLost)
	}
}

// TestDetachedAmbiguous shows the same of a start with nobody attached, and that
// an agent which was restarted before is no obstacle to it.
func TestDetachedAmbiguous(t *testing.T) {
	f := newFakeAgent(t)
	tries := 0
	f.start = func(r *guestv1.StartRequest) (*guestv1.StartResponse, error) {
		switch tries++; {
		case tries == 1:
			return nil, status.Error(codes.Unavailable, "connection reset")
		case r.AgentId != "run-2":
			return nil, agentError(codes.Unavailable, ReasonAgentRestarted, "agent restarted", 0)
		}
		return &guestv1.StartResponse{Session: &guestv1.SessionInfo{SessionId: r.SessionId, Pid: 1}}, nil
	}
	g := f.dial(t)
	detached := func() error {
		c := g.Command(t.Context(), "x")
		c.Detach = true
		return c.Start()
	}
	e, ok := errors.AsType[*Error](detached())
	if !ok || e.Reason != ReasonSessionLost || tries != 2 {
		t.Errorf("Start: %v after %d tries, want reason %s after 2", e, tries, ReasonSessionLost)
	}
	f.mu.Lock()
	f.info.AgentId = "run-2"
	f.mu.Unlock()
	if err := detached(); err != nil || tries != 4 {
		t.Errorf("Start: %v after %d tries, want 4", err, tries)
	}
}

// TestDetached shows that a start and a wait which are cut are repeated with
// the same id.
func TestDetached(t *testing.T) {
	f := newFakeAgent(t)
	var ids []string
	f.start = func(r *guestv1.StartRequest) (*guestv1.StartResponse, error) {
		if ids = append(ids, string(r.SessionId)); len(ids) == 1 {
			return nil, status.Error(codes.Unavailable, "connection reset")
		}
		if r.Spec.OwnerGone != guestv1.OwnerGone_OWNER_GONE_KEEP {
			t.Errorf("owner_gone is %v", r.Spec.OwnerGone)
		}
		return &guestv1.StartResponse{Session: &guestv1.SessionInfo{SessionId: r.SessionId, Pid: 7}}, nil
	}
	waits := 0
	f.wait = func(r *guestv1.WaitRequest) (*guestv1.WaitResponse, error) {
		if waits++; waits == 1 {
			return nil, status.Error(codes.Unavailable, "connection reset")
		}
		code := uint32(4)
		return &guestv1.WaitResponse{Exit: &guestv1.Exit{Code: &code}}, nil
	}
	cmd := f.dial(t).Command(t.Context(), "x")
	cmd.Detach = true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if len(ids) != 2 || ids[0] != ids[1] || cmd.Process.Pid != 7 || string(cmd.ID[:]) != ids[0] {
		t.Errorf("started with ids %x, pid %d", ids, cmd.Process.Pid)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 4 || waits != 2 {
		t.Errorf("Wait: %v after %d waits", err, waits)
	}
}

// TestStdinBackpressure shows that what is written to stdin and not taken is
// bounded.
func TestStdinBackpressure(t *testing.T) {
	f := newFakeAgent(t)
	release := make(chan struct{})
	f.exec = func(open *guestv1.Open, st execServer) error {
		opened := openedMessage(open)
		opened.StdinWindow = 1000
		sendOpened(st, opened)
		got := 0
		for got < 1000 {
			m, err := st.Recv()
			if err != nil {
				return err
			}
			got += len(m.GetInput().GetData())
		}
		<-release
		if got != 1000 {
			t.Errorf("%d bytes were sent into a window of 1000", got)
		}
		code := uint32(0)
		return sendExit(st, &guestv1.Exit{Code: &code})
	}
	cmd := f.dial(t).Command(t.Context(), "x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := in.Write(make([]byte, inputBuffer))
	if n != inputBuffer || err != nil {
		t.Fatalf("Write: %d, %v", n, err)
	}
	blocked := make(chan error)
	go func() {
		_, err := in.Write([]byte{1})
		blocked <- err
	}()
	select {
	case err := <-blocked:
		t.Errorf("a write beyond the buffer returned: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-blocked; !errors.Is(err, errPipe) {
		t.Errorf("Write after the end: %v, want EPIPE", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestPipesApart shows that a reader of one stream is not stopped by the other,
// which nobody reads.
func TestPipesApart(t *testing.T) {
	f := newFakeAgent(t)
	m := &model{t: t, stdout: randomBytes(1, 4*defaultWindow), stderr: randomBytes(2, 4*defaultWindow), piece: 32 << 10}
	f.exec = m.serve
	cmd := f.dial(t).Command(t.Context(), "x")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		r    io.Reader
		want []byte
	}{{stdout, m.stdout}, {stderr, m.stderr}} {
		got, err := io.ReadAll(p.r)
		if err != nil || !bytes.Equal(got, p.want) {
			t.Errorf("read %d bytes, %v, want %d, equal", len(got), err, len(p.want))
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
