//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// runAsAgent makes the test program behave as guest-agent.
const runAsAgent = "TEST_RUN_AS_GUEST_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(runAsAgent) != "" {
		os.Unsetenv(runAsAgent)
		main()
	}
	if len(os.Args) > 2 && os.Args[1] == enterGuest {
		runInGuest(os.Args[2:])
	}
	code := m.Run()
	if built.path != "" {
		os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(code)
}

// patience is how long something may take that takes no time.
const patience = time.Minute

// An agentProcess is a guest-agent that runs.
type agentProcess struct {
	cmd    *exec.Cmd
	sock   string // the Unix socket that it was told to listen on
	notify *net.UnixConn
	stderr *syncBuffer
	exited chan struct{}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// agentCommand returns the command for guest-agent with arguments.
func agentCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	state := t.TempDir()
	cmd.Env = append(os.Environ(), runAsAgent+"=1", "GUEST_AGENT_STATE_DIR="+state,
		"GUEST_AGENT_POLICY="+filepath.Join(state, "policy.toml"), "GUEST_AGENT_AUTHORIZED_HOSTS="+filepath.Join(state, "hosts"))
	return cmd
}

// start starts cmd and waits until it says that it is ready. Its sock is in a
// new directory; %s in its arguments stands for the path.
func start(t *testing.T, cmd *exec.Cmd) *agentProcess {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &agentProcess{cmd: cmd, sock: filepath.Join(dir, "s"), stderr: &syncBuffer{}, exited: make(chan struct{})}
	for i := range cmd.Args {
		cmd.Args[i] = strings.ReplaceAll(cmd.Args[i], "%s", p.sock)
	}
	addr := &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"}
	if p.notify, err = net.ListenUnixgram("unixgram", addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.notify.Close() })
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+addr.Name)
	if cmd.Stderr == nil {
		cmd.Stderr = p.stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("log of the agent:\n%s", p.stderr)
		}
	})
	p.await(t, "READY=1")
	return p
}

// await waits for a datagram to the service manager that has the line.
func (p *agentProcess) await(t *testing.T, line string) string {
	t.Helper()
	p.notify.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	for {
		n, err := p.notify.Read(b)
		if err != nil {
			t.Fatalf("no %s for the service manager: %v", line, err)
		}
		for got := range strings.SplitSeq(string(b[:n]), "\n") {
			if got == line {
				return string(b[:n])
			}
		}
	}
}

// signal sends a signal to the agent.
func (p *agentProcess) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// wait waits for the end of the agent and returns its exit code.
func (p *agentProcess) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the agent does not end")
		return -1
	}
}

// dial returns a stock gRPC client.
func dial(t *testing.T, sock string) *grpc.ClientConn {
	t.Helper()
	cc, err := transport.NewGRPCClient("unix:" + sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// checkServing asks for health and info.
func checkServing(t *testing.T, cc *grpc.ClientConn) *guestv1.InfoResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h, err := healthv1.NewHealthClient(cc).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatalf("health: %v, %v", h, err)
	}
	info, err := guestv1.NewAgentServiceClient(cc).Info(ctx, &guestv1.InfoRequest{})
	if err != nil || !info.GetAccess().GetTrusted() {
		t.Fatalf("info: %v, %v", info, err)
	}
	return info
}

// begin starts a process in the guest.
func begin(t *testing.T, cc *grpc.ClientConn, id string, args ...string) *guestv1.SessionInfo {
	t.Helper()
	spec := &guestv1.SessionSpec{}
	for _, a := range args {
		spec.Args = append(spec.Args, []byte(a))
	}
	r, err := guestv1.NewProcessServiceClient(cc).Start(t.Context(), &guestv1.StartRequest{SessionId: sessionID(id), Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetSession()
}

func sessionID(name string) []byte { return []byte((name + strings.Repeat("-", 16))[:16]) }

// attach attaches to a session, and returns once the agent has the call.
func attach(t *testing.T, cc *grpc.ClientConn, id string) guestv1.ProcessService_AttachClient {
	t.Helper()
	stream, err := guestv1.NewProcessServiceClient(cc).Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := &guestv1.Open{SessionId: sessionID(id), Role: guestv1.Role_ROLE_OBSERVER}
	if err := stream.Send(&guestv1.AttachRequest{Message: &guestv1.AttachRequest_Open{Open: open}}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || r.GetOpened() == nil {
		t.Fatalf("attach: %v, %v", r, err)
	}
	return stream
}

// exitOfSession reads up to the exit of a session, or the error of the call.
func exitOfSession(stream guestv1.ProcessService_AttachClient) (*guestv1.Exit, error) {
	for {
		r, err := stream.Recv()
		if err != nil || r.GetExit() != nil {
			return r.GetExit(), err
		}
	}
}

// exitOf runs a command that is expected to end by itself.
func exitOf(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &err
	switch e := cmd.Run(); {
	case e == nil:
	case errors.As(e, new(*exec.ExitError)):
	default:
		t.Fatal(e)
	}
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}
