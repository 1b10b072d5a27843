package guest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// asGenerator has the test binary be a program that writes known streams of so
// many bytes: "STDOUT STDERR".
const asGenerator = "VSOCKRPC_TEST_AS_GENERATOR"

// knownStream is an endless stream of bytes that both sides can make.
func knownStream(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

func runGenerator() int {
	var sizes [2]int64
	if _, err := fmt.Sscan(os.Getenv(asGenerator), &sizes[0], &sizes[1]); err != nil {
		return 2
	}
	results := make(chan error, 2)
	for i, f := range []*os.File{os.Stdout, os.Stderr} {
		go func() {
			_, err := io.CopyN(f, knownStream(byte(1+i)), sizes[i])
			results <- err
		}()
	}
	for range sizes {
		if <-results != nil {
			return 3
		}
	}
	return 11
}

// checker is a writer that compares what it gets with a stream.
type checker struct {
	want io.Reader
	buf  []byte
	n    int64
	err  error
}

func newChecker(seed byte) *checker { return &checker{want: knownStream(seed)} }

func (c *checker) Write(p []byte) (int, error) {
	if len(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	io.ReadFull(c.want, c.buf[:len(p)])
	if !bytes.Equal(p, c.buf[:len(p)]) && c.err == nil {
		c.err = fmt.Errorf("the bytes from %d to %d are not the stream's", c.n, c.n+int64(len(p)))
	}
	c.n += int64(len(p))
	return len(p), nil
}

// startVM runs an agent behind a simulated VMM.
func startVM(tb testing.TB) *vmmtest.VMM {
	tb.Helper()
	vmm := vmmtest.New(tb)
	l, err := vmm.Listen(transport.AgentPort)
	if err != nil {
		tb.Fatal(err)
	}
	a, err := agent.New(&agent.Config{Access: access.Rules{Mode: access.ModeHost}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	tb.Cleanup(func() {
		a.Close()
		<-served
	})
	return vmm
}

// sizes returns how many bytes a test of resumption moves: few, or in a stress
// test many.
func sizes() (stdout, stderr, stdin int64) {
	if os.Getenv("VSOCKRPC_STRESS") != "" {
		return 200 << 20, 50 << 20, 50 << 20
	}
	return 16 << 20, 4 << 20, 4 << 20
}

// TestThroughResets moves known streams through a VMM that resets all
// connections all the time: every byte arrives once and in order.
func TestThroughResets(t *testing.T) {
	stdout, stderr, stdin := sizes()
	for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
		t.Run(string(wire), func(t *testing.T) {
			vmm := startVM(t)
			g, err := guest.Dial(t.Context(), vmm.Addr(transport.AgentPort), &guest.Config{Wire: wire})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			resetting, stop := context.WithCancel(ctx)
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for resetting.Err() == nil {
					select {
					case <-time.After(200 * time.Millisecond):
						vmm.Reset()
					case <-resetting.Done():
					}
				}
			}()
			defer func() { stop(); <-stopped }()

			t.Run("output", func(t *testing.T) {
				out, errs := newChecker(1), newChecker(2)
				cmd := g.Command(ctx, os.Args[0])
				cmd.ExtraEnv = []string{fmt.Sprintf("%s=%d %d", asGenerator, stdout, stderr)}
				cmd.Stdout, cmd.Stderr = out, errs
				err := cmd.Run()
				if exit, ok := errors.AsType[*guest.ExitError](err); !ok || exit.ExitCode() != 11 {
					t.Errorf("Run: %v, want exit code 11", err)
				}
				if err := errors.Join(out.err, errs.err); err != nil || out.n != stdout || errs.n != stderr {
					t.Errorf("got %d of %d and %d of %d bytes, %v", out.n, stdout, errs.n, stderr, err)
				}
			})
			t.Run("input", func(t *testing.T) {
				hash := sha256.New()
				cmd := g.Command(ctx, "sha256sum")
				cmd.Stdin = io.TeeReader(io.LimitReader(knownStream(3), stdin), hash)
				out, err := cmd.Output()
				if want := hex.EncodeToString(hash.Sum(nil)) + "  -\n"; string(out) != want || err != nil {
					t.Errorf("got %q, %v, want %q", out, err, want)
				}
			})
		})
	}
}

// TestThroughPause stops the VM for a while: that is no end of a command, however
// long it lasts by this side's clock.
func TestThroughPause(t *testing.T) {
	vmm := startVM(t)
	g, err := guest.Dial(t.Context(), vmm.Addr(transport.AgentPort), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	cmd := g.Command(t.Context(), "sh", "-c", "echo before; read x; echo after $x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, len("before\n")))
	vmm.Pause()
	io.WriteString(in, "the pause\n")
	time.Sleep(500 * time.Millisecond)
	vmm.Resume()
	rest, err := io.ReadAll(out)
	if string(rest) != "after the pause\n" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestResumeHalfOpen breaks the connection for the host alone: the agent takes
// the owner for attached still when it comes back, and lets it have its place.
func TestResumeHalfOpen(t *testing.T) {
	const size = 8 << 20
	for _, attach := range []bool{false, true} {
		t.Run(fmt.Sprintf("attach=%v", attach), func(t *testing.T) {
			vmm := startVM(t)
			addr, err := transport.ParseAddr(vmm.Addr(transport.AgentPort))
			if err != nil {
				t.Fatal(err)
			}
			var dials atomic.Int32
			g, err := guest.Dial(t.Context(), "vm", &guest.Config{Dialer: func(ctx context.Context) (net.Conn, error) {
				if dials.Add(1) > 1 {
					vmm.SetFaults(vmmtest.Faults{})
				}
				return transport.Dial(ctx, addr, nil)
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			cmd := g.Command(t.Context(), os.Args[0])
			cmd.ExtraEnv = []string{fmt.Sprintf("%s=%d 0", asGenerator, size)}
			if cmd.Detach = attach; attach {
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				cmd = g.Attach(t.Context(), cmd.ID.String(), nil)
			}
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			check := newChecker(1)
			if _, err := io.CopyN(check, pipe, 1<<20); err != nil {
				t.Fatal(err)
			}
			// The host reads an end, and what it says then is lost on the way.
			vmm.SetFaults(vmmtest.Faults{ToHost: vmmtest.Flow{Fault: vmmtest.EndFlow}, ToGuest: vmmtest.Flow{Fault: vmmtest.Drop}})
			if _, err := io.Copy(check, pipe); err != nil {
				t.Fatal(err)
			}
			if exit, ok := errors.AsType[*guest.ExitError](cmd.Wait()); !ok || exit.ExitCode() != 11 {
				t.Errorf("Wait: %v, want exit code 11", exit)
			}
			if check.err != nil || check.n != size || dials.Load() < 2 {
				t.Errorf("got %d of %d bytes over %d connections, %v", check.n, size, dials.Load(), check.err)
			}
		})
	}
}

// TestManyAtOnce runs many commands through one connection that is reset.
func TestManyAtOnce(t *testing.T) {
	const n = 60
	vmm := startVM(t)
	g, err := guest.Dial(t.Context(), vmm.Addr(transport.AgentPort), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	results := make(chan error, n)
	for i := range n {
		go func() {
			out, err := g.Command(t.Context(), "sh", "-c", "echo "+strconv.Itoa(i)+"; exit 5").Output()
			if exit, ok := errors.AsType[*guest.ExitError](err); !ok || exit.ExitCode() != 5 || strings.TrimSpace(string(out)) != strconv.Itoa(i) {
				results <- fmt.Errorf("command %d: %q, %w", i, out, err)
				return
			}
			results <- nil
		}()
		if i%20 == 10 {
			vmm.Reset()
		}
	}
	for range n {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// TestReattach starts a detached session, reads a part of it, and has the rest
// with another Guest, as after the death of the first program.
func TestReattach(t *testing.T) {
	const size = 3 << 20
	addr := startAgent(t)
	first := dialAgent(t, addr)
	cmd := first.Command(t.Context(), os.Args[0])
	cmd.ExtraEnv = []string{fmt.Sprintf("%s=%d 0", asGenerator, size)}
	cmd.Detach, cmd.Name = true, "generator"
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	check := newChecker(1)
	if _, err := io.CopyN(check, pipe, 1<<20); err != nil {
		t.Fatal(err)
	}
	first.Close()

	second := dialAgent(t, addr)
	rest := second.Attach(t.Context(), "generator", &guest.AttachOptions{Stdout: uint64(check.n), TakeOver: true})
	rest.Stdout = check
	err = rest.Run()
	if exit, ok := errors.AsType[*guest.ExitError](err); !ok || exit.ExitCode() != 11 || rest.ID != cmd.ID {
		t.Errorf("Run: %v, want exit code 11", err)
	}
	if check.err != nil || check.n != size {
		t.Errorf("got %d of %d bytes, %v", check.n, size, check.err)
	}
}
