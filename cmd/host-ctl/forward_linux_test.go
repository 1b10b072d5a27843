package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// hostCtl is a host-ctl that runs.
type hostCtl struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  *bufio.Scanner // of stdout
	stderr *lockedBuffer
	once   sync.Once
	code   int
}

// lockedBuffer is a buffer that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// hostCtlCommand is a host-ctl to be started.
func hostCtlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asHostCtl+"=1")
	return cmd
}

func startHostCtl(t *testing.T, args ...string) *hostCtl {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	h := &hostCtl{t: t, cmd: hostCtlCommand(ctx, args...), stderr: new(lockedBuffer)}
	h.cmd.Stderr = h.stderr
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.lines = bufio.NewScanner(out)
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.end(syscall.SIGKILL)
		cancel()
		if t.Failed() {
			t.Logf("stderr of host-ctl:\n%s", h.stderr)
		}
	})
	return h
}

// line returns the next line of stdout.
func (h *hostCtl) line() string {
	h.t.Helper()
	if !h.lines.Scan() {
		h.end(syscall.SIGKILL)
		h.t.Fatalf("no more output; stderr:\n%s", h.stderr)
	}
	return h.lines.Text()
}

// forward returns where the next forward listens.
func (h *hostCtl) forward() string {
	h.t.Helper()
	line := h.line()
	var from, arrow, g, to string
	if n, _ := fmt.Sscanf(line, "Forwarding %s %s %s %s", &from, &arrow, &g, &to); n != 4 || arrow != "->" {
		h.t.Fatalf("the line %q", line)
	}
	return from
}

// end sends a signal and returns the exit code.
func (h *hostCtl) end(sig os.Signal) int {
	h.once.Do(func() {
		h.cmd.Process.Signal(sig)
		io.Copy(io.Discard, errorFree{h.lines})
		h.cmd.Wait()
		h.code = h.cmd.ProcessState.ExitCode()
	})
	return h.code
}

// errorFree reads what a scanner has left.
type errorFree struct{ s *bufio.Scanner }

func (e errorFree) Read([]byte) (int, error) {
	if e.s.Scan() {
		return 0, nil
	}
	return 0, io.EOF
}

// await waits until stderr has a text.
func (h *hostCtl) await(text string) {
	h.t.Helper()
	wait.For(h.t, fmt.Sprintf("%q on stderr", text), func() bool { return strings.Contains(h.stderr.String(), text) })
}

// echoServer answers each connection with what it sends, and its end with the
// word "end".
func echoServer(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err == nil {
					io.WriteString(c, "end")
				}
			}()
		}
	}()
	return l
}

// checkEcho checks a connection to an echoServer.
func checkEcho(network, addr string) error {
	c, err := net.DialTimeout(network, addr, time.Minute)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, "hello "); err != nil {
		return err
	}
	c.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(c)
	if err == nil && string(got) != "hello end" {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

func port(a net.Addr) string {
	_, p, _ := net.SplitHostPort(a.String())
	return p
}

func TestPortForward(t *testing.T) {
	agent := tempAgent(t)
	dir := filepath.Dir(strings.TrimPrefix(agent, "unix:"))
	tcp := echoServer(t, "tcp", "127.0.0.1:0")
	unix := echoServer(t, "unix", filepath.Join(dir, "server"))
	for _, wire := range []string{"native", "grpc"} {
		t.Run(wire, func(t *testing.T) {
			sock := filepath.Join(dir, wire)
			h := startHostCtl(t, "port-forward", "--wire", wire, agent,
				":"+port(tcp.Addr()), ":127.0.0.1:"+port(tcp.Addr()), ":"+unix.Addr().String(), sock+":"+port(tcp.Addr()))
			for range 3 {
				if err := checkEcho("tcp", h.forward()); err != nil {
					t.Error(err)
				}
			}
			if h.forward() != sock {
				t.Error("the path is not that of the socket")
			}
			if err := checkEcho("unix", sock); err != nil {
				t.Error(err)
			}
			if st, err := os.Stat(sock); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("socket: %v, %v", st, err)
			}
			if code := h.end(os.Interrupt); code != 130 {
				t.Errorf("exit code %d", code)
			}
			if _, err := os.Stat(sock); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is still there: %v", err)
			}
			if h.stderr.String() != "" {
				t.Errorf("stderr: %s", h.stderr)
			}
		})
	}
}

func TestPortForwardJSON(t *testing.T) {
	h := startHostCtl(t, "port-forward", "-o", "json", "local", ":7/udp")
	var got forwarded
	if err := json.Unmarshal([]byte(h.line()), &got); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got.Listen, "127.0.0.1:") || got.Network != "udp" || got.Target != "localhost:7" || got.Guest != "local" || got.Reverse {
		t.Errorf("%+v", got)
	}
}

// TestPortForwardInUse: one port that is taken, and nothing is forwarded.
func TestPortForwardInUse(t *testing.T) {
	taken := echoServer(t, "tcp", "127.0.0.1:0")
	h := startHostCtl(t, "port-forward", "local", ":80", port(taken.Addr())+":80")
	if h.lines.Scan() {
		t.Errorf("output: %q", h.lines.Text())
	}
	if code := h.end(syscall.SIGKILL); code != exitFailure {
		t.Errorf("exit code %d", code)
	}
	if text := h.stderr.String(); !strings.Contains(text, "nothing is forwarded") || !strings.Contains(text, taken.Addr().String()) || !strings.Contains(text, "address already in use") {
		t.Errorf("stderr: %s", text)
	}
}

// TestPortForwardRefused: nobody listens in the guest, so the connection here is
// reset, and stderr says so once.
func TestPortForwardRefused(t *testing.T) {
	closed := echoServer(t, "tcp", "127.0.0.1:0")
	closed.Close()
	h := startHostCtl(t, "port-forward", tempAgent(t), ":"+port(closed.Addr()))
	addr := h.forward()
	for range 5 {
		c, err := net.Dial("tcp", addr)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // it came before Dial had looked at the connection
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v, want ECONNRESET", err)
		}
		c.Close()
	}
	h.await("connection refused")
	// As often as there were 5 s, which a slow machine may take.
	if n := strings.Count(h.stderr.String(), "connection refused"); n > 4 {
		t.Errorf("told %d times", n)
	}
}

func TestPortForwardLimit(t *testing.T) {
	server := echoServer(t, "tcp", "127.0.0.1:0")
	h := startHostCtl(t, "port-forward", "--max-connections=1", tempAgent(t), ":"+port(server.Addr()))
	addr := h.forward()
	first, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	io.WriteString(first, "x")
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := checkEcho("tcp", addr); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the second: %v, want ECONNRESET", err)
	}
	h.await("--max-connections")
	first.Close()
	wait.For(t, "connection after the first has ended", func() bool { return checkEcho("tcp", addr) == nil })
}

// TestPortForwardAgentRestarts: connections break with the agent, and new ones
// are carried when there is one again; in the reverse direction too.
func TestPortForwardAgentRestarts(t *testing.T) {
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "a")
	start := func() (stop func()) {
		stop, err := runAgent(path, access.Rules{Mode: access.ModeEmbedded}, access.FaceAll)
		if err != nil {
			t.Fatal(err)
		}
		return stop
	}
	stop := start()
	server := echoServer(t, "tcp", "127.0.0.1:0")
	for _, reverse := range []bool{false, true} {
		t.Run(fmt.Sprintf("reverse=%v", reverse), func(t *testing.T) {
			h := startHostCtl(t, "port-forward", fmt.Sprintf("--reverse=%v", reverse), "unix:"+path, ":"+port(server.Addr()))
			var addr string
			if reverse {
				var g string
				line := h.line()
				if n, _ := fmt.Sscanf(line, "Forwarding %s %s -> ", &g, &addr); n != 2 {
					t.Fatalf("the line %q", line)
				}
			} else {
				addr = h.forward()
			}
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.WriteString(c, "x")
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			stop()
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v, want ECONNRESET", err)
			}
			if err := checkEcho("tcp", addr); err == nil {
				t.Error("carried without an agent")
			}
			stop = start()
			wait.For(t, "connection once the agent is back", func() bool { return checkEcho("tcp", addr) == nil })
		})
	}
	stop()
}

func TestPortForwardDatagrams(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	// It answers with the address of whom it hears, and what that said.
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(append([]byte(from.String()+" "), buf[:n]...), from)
		}
	}()
	h := startHostCtl(t, "port-forward", tempAgent(t), ":127.0.0.1:"+port(server.LocalAddr())+"/udp")
	addr := h.forward()
	ask := func(c net.Conn, text string) (via, answer string) {
		t.Helper()
		buf := make([]byte, 64<<10)
		for range 60 { // datagrams may be lost
			io.WriteString(c, text)
			c.SetReadDeadline(time.Now().Add(time.Second))
			if n, err := c.Read(buf); err == nil {
				via, answer, _ = strings.Cut(string(buf[:n]), " ")
				return via, answer
			}
		}
		t.Fatal("no answer")
		return "", ""
	}
	var vias [2]string
	for i := range vias {
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, text := range []string{"a", "", strings.Repeat("b", 1400)} {
			via, answer := ask(c, text)
			if answer != text {
				t.Errorf("sent %q, got %q", text, answer)
			}
			if vias[i] == "" {
				vias[i] = via
			}
			if via != vias[i] {
				t.Errorf("a sender has two sockets in the guest: %s and %s", via, vias[i])
			}
		}
	}
	if vias[0] == vias[1] {
		t.Error("two senders have the same socket in the guest")
	}
}

// TestUDPFlowIdles: a flow ends when it idles, and gives its slot back.
func TestUDPFlowIdles(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	g := dialTest(t, tempAgent(t))
	local, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f := &forwarder{cli: &cli{stderr: io.Discard}, guest: g, slots: make(chan struct{}, 1)}
	u := newUDPForward(f, local, endpoint{"udp", server.LocalAddr().String()}, &notices{w: io.Discard})
	u.idle = time.Millisecond
	served := make(chan error, 1)
	go func() { served <- u.serve(ctx) }()
	c, err := net.Dial("udp", local.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		server.ReadFrom(make([]byte, 1))
	}()
	// The flow may idle before it is made.
	for arrived := false; !arrived; {
		io.WriteString(c, "x")
		select {
		case <-heard:
			arrived = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	wait.For(t, "end of the flow", func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return len(u.flows) == 0 && len(u.slots) == 0
	})
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) {
		t.Errorf("serve: %v", err)
	}
	f.running.Wait()
}
