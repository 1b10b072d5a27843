package selftest

import (
	"context"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// TestSpinOnOneCPU compares calls over vsock with the native wire's adaptive spin
// and without: on one CPU, where a client that looks for its answer keeps the
// server from giving it, it must cost neither time nor work.
func TestSpinOnOneCPU(t *testing.T) {
	needUML(t)
	if n := runtime.NumCPU(); n != 1 {
		t.Skipf("%d CPUs", n)
	}
	const rounds, calls = 7, 300
	with, without := newCaller(t, 0), newCaller(t, -1)
	least := func(c *caller, took, cpu *time.Duration) {
		w, u := c.round(t, calls)
		*took, *cpu = min(*took, w), min(*cpu, u)
	}
	const never = time.Hour
	a, b, cpuA, cpuB := never, never, never, never
	for range rounds {
		least(with, &a, &cpuA)
		least(without, &b, &cpuB)
	}
	t.Logf("a call with spin takes %v and %v of CPU, without %v and %v", a/calls, cpuA/calls, b/calls, cpuB/calls)
	// The best of the rounds is that which other work of the computer has not
	// disturbed. A spin at each call would cost several times as much.
	if cpuA > 2*cpuB || a > 2*b {
		t.Errorf("the spin does harm: %v and %v of CPU with it, %v and %v without", a/calls, cpuA/calls, b/calls, cpuB/calls)
	}
}

// caller is a client of a server on this kernel's vsock.
type caller struct{ client healthpb.HealthClient }

func newCaller(t *testing.T, spin time.Duration) *caller {
	t.Helper()
	l, err := transport.Listen(t.Context(), transport.VsockAddr(transport.CIDAny, transport.PortAny), nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := rpc.NewServer(&rpc.ServerConfig{Spin: spin})
	healthpb.RegisterHealthServer(srv, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	port := l.Addr().(transport.Addr).Port
	conn := rpc.NewClient(func(ctx context.Context) (net.Conn, error) {
		return transport.Dial(ctx, transport.VsockAddr(transport.CIDLocal, port), nil)
	}, &rpc.ClientConfig{Spin: spin})
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return &caller{healthpb.NewHealthClient(conn)}
}

// round makes calls one after the other, and returns the time and the CPU time
// that they took.
func (c *caller) round(t *testing.T, calls int) (took, cpu time.Duration) {
	t.Helper()
	start, used := time.Now(), cpuTime(t)
	for range calls {
		if _, err := c.client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	return time.Since(start), cpuTime(t) - used
}

// cpuTime returns how much CPU time this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
