package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestProxy(t *testing.T) {
	agent := tempAgent(t)
	server := echoServer(t, "tcp", "127.0.0.1:0")
	all := make([]byte, 1<<20)
	for i := range all {
		all[i] = byte(i)
	}
	for _, wire := range []string{"native", "grpc"} {
		cmd := hostCtlCommand(t.Context(), "proxy", "--wire", wire, agent, port(server.Addr()))
		cmd.Stdin = bytes.NewReader(all)
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, append(all[:len(all):len(all)], "end"...)) {
			t.Errorf("%s: %d bytes, %v", wire, len(got), err)
		}
	}
	t.Run("reset", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		}()
		cmd := hostCtlCommand(t.Context(), "proxy", agent, port(l.Addr()))
		in, err := cmd.StdinPipe() // nobody ends it
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != exitFailure || !strings.Contains(string(out), "reset") {
			t.Errorf("%v, %s", err, out)
		}
	})
	t.Run("all of stdin arrives", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		got := make(chan []byte, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			c.(*net.TCPConn).CloseWrite() // host-ctl has nothing more to read
			b, _ := io.ReadAll(c)
			got <- b
		}()
		cmd := hostCtlCommand(t.Context(), "proxy", agent, port(l.Addr()))
		cmd.Stdin = bytes.NewReader(all)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v, %s", err, out)
		}
		if b := <-got; !bytes.Equal(b, all) {
			t.Errorf("the guest got %d bytes", len(b))
		}
	})
}

// TestProxyGRPC: any gRPC client reaches the agent through a Unix socket.
func TestProxyGRPC(t *testing.T) {
	for _, target := range []string{"local", tempAgent(t)} {
		sock := filepath.Join(t.TempDir(), "g.sock")
		h := startHostCtl(t, "proxy", target, "--grpc", "unix:"+sock)
		if h.forward() != sock {
			t.Error("the path is not that of the socket")
		}
		if st, err := os.Stat(sock); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("socket: %v, %v", st, err)
		}
		cc, err := grpc.NewClient("unix:"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		info, err := guestv1.NewAgentServiceClient(cc).Info(t.Context(), &guestv1.InfoRequest{})
		if err != nil || !info.GetAccess().GetTrusted() {
			t.Errorf("%v, %v", info, err)
		}
		cc.Close()
		// The socket is a target too.
		out, err := hostCtlCommand(t.Context(), "exec", "unix:"+sock, "echo", "hello").Output()
		if err != nil || string(out) != "hello\n" {
			t.Errorf("%q, %v", out, err)
		}
		if code := h.end(syscall.SIGTERM); code != 143 {
			t.Errorf("exit code %d", code)
		}
		if _, err := os.Stat(sock); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	}
}
