package guest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/process"
	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/bulk"
)

// asAgent has the test binary be an agent on the Unix socket that it names,
// until its stdin ends.
const asAgent = "VSOCKRPC_TEST_AS_AGENT"

// agentRings bounds the memory of all rings of that agent. It is what an agent
// of a guest with 512 MiB has.
const agentRings = 64 << 20

func serveAsAgent() int {
	a, err := agent.New(&agent.Config{
		Logger: slog.New(slog.DiscardHandler), Access: access.Rules{Mode: access.ModeEmbedded},
		Process: &process.Config{MaxRingsTotal: agentRings},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	a.RegisterService(&plainService, nil)
	a.RegisterService(&memoryService, nil)
	l, err := net.Listen("unix", os.Getenv(asAgent))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go a.Serve(l)
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	a.Close()
	return 0
}

// agentProcess is an agent in a process of its own.
type agentProcess struct {
	pid    int
	target string
}

func startAgentProcess(tb testing.TB) agentProcess {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "s")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asAgent+"="+path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		tb.Fatal(err)
	}
	return agentProcess{cmd.Process.Pid, "unix:" + path}
}

// zeros is a command that writes so many MiB as quickly as a process can.
func zeros(mib int) []string {
	return []string{"dd", "if=/dev/zero", "bs=64k", fmt.Sprint("count=", 16*mib), "status=none"}
}

// plainService copies a process's pipe to a stream, with the messages of
// package bulk: what exec would be without sessions. Its output is lost with
// the connection, and nothing but the wire's own credits holds it up.
var plainService = grpc.ServiceDesc{
	ServiceName: "test.Plain",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{StreamName: "Run", ServerStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
		var mib wrapperspb.UInt32Value
		if err := st.RecvMsg(&mib); err != nil {
			return err
		}
		argv := zeros(int(mib.Value))
		cmd := exec.Command(argv[0], argv[1:]...)
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		buf := make([]byte, 64<<10)
		for {
			n, err := pipe.Read(buf)
			if n > 0 {
				if err := st.SendMsg(&bulk.Frame{Layout: bulk.ExecOutput, Data: buf[:n]}); err != nil {
					pipe.Close()
					cmd.Wait()
					return err
				}
			}
			if err == io.EOF {
				return cmd.Wait()
			}
			if err != nil {
				return err
			}
		}
	}}},
}

// memoryService tells how much memory the agent's Go runtime has ever had at a
// time, but for what it has given back and taken anew.
var memoryService = grpc.ServiceDesc{
	ServiceName: "test.Memory",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Peak", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if err := dec(&emptypb.Empty{}); err != nil {
			return nil, err
		}
		sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
		metrics.Read(sample)
		return wrapperspb.UInt64(sample[0].Value.Uint64()), nil
	}}},
}

func peakMemory(tb testing.TB, g *guest.Guest) uint64 {
	tb.Helper()
	var peak wrapperspb.UInt64Value
	if err := g.Conn().Invoke(tb.Context(), "/test.Memory/Peak", &emptypb.Empty{}, &peak); err != nil {
		tb.Fatal(err)
	}
	return peak.Value
}

// runPlain has plainService run a command, and returns how much it wrote.
func runPlain(tb testing.TB, g *guest.Guest, mib int) int64 {
	tb.Helper()
	st, err := g.Conn().NewStream(tb.Context(), &plainService.Streams[0], "/test.Plain/Run")
	if err != nil {
		tb.Fatal(err)
	}
	if err := st.SendMsg(wrapperspb.UInt32(uint32(mib))); err != nil {
		tb.Fatal(err)
	}
	if err := st.CloseSend(); err != nil {
		tb.Fatal(err)
	}
	frame := bulk.Frame{Layout: bulk.ExecOutput}
	defer frame.Free()
	for n := int64(0); ; n += int64(len(frame.Data)) {
		if err := st.RecvMsg(&frame); err == io.EOF {
			return n
		} else if err != nil {
			tb.Fatal(err)
		}
	}
}

// runSession starts a detached session, attaches to it from its first byte on,
// and returns how much it wrote.
func runSession(tb testing.TB, g *guest.Guest, mib int) int64 {
	tb.Helper()
	argv := zeros(mib)
	cmd := g.Command(tb.Context(), argv[0], argv[1:]...)
	cmd.Detach = true
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	var n counter
	attached := g.Attach(tb.Context(), cmd.ID.String(), nil)
	attached.Stdout = &n
	if err := attached.Run(); err != nil {
		tb.Fatal(err)
	}
	return int64(n)
}

// BenchmarkSessionBesidePipe has a detached session and a plain pipe take turns
// on one connection to an agent in a process of its own. Each round is one of
// both; ratio is the median of the rounds', with the quartiles, and cpu-ratio
// that of the processor time which this process and the agent use.
func BenchmarkSessionBesidePipe(b *testing.B) {
	const mib = 256
	agent := startAgentProcess(b)
	for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
		b.Run(string(wire), func(b *testing.B) {
			g, err := guest.Dial(b.Context(), agent.target, &guest.Config{Wire: wire})
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			measure := func(run func(testing.TB, *guest.Guest, int) int64) (speed, cpu float64) {
				start, used := time.Now(), cpuTime(b, os.Getpid())+cpuTime(b, agent.pid)
				if n := run(b, g, mib); n != mib<<20 {
					b.Fatalf("%d bytes, want %d", n, mib<<20)
				}
				return mib << 20 / 1e6 / time.Since(start).Seconds(), float64(cpuTime(b, os.Getpid()) + cpuTime(b, agent.pid) - used)
			}
			var plain, session, ratios, cpuRatios []float64
			for b.Loop() {
				var p, s, pCPU, sCPU float64
				if len(ratios)%2 == 0 {
					p, pCPU = measure(runPlain)
					s, sCPU = measure(runSession)
				} else {
					s, sCPU = measure(runSession)
					p, pCPU = measure(runPlain)
				}
				plain, session = append(plain, p), append(session, s)
				ratios, cpuRatios = append(ratios, s/p), append(cpuRatios, sCPU/pCPU)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(quantile(plain, 2), "plain-MB/s")
			b.ReportMetric(quantile(session, 2), "session-MB/s")
			b.ReportMetric(quantile(cpuRatios, 2), "cpu-ratio")
			for i, name := range []string{"ratio-q1", "ratio", "ratio-q3"} {
				b.ReportMetric(quantile(ratios, i+1), name)
			}
		})
	}
}

// quantile returns a quartile of values; the second is the median.
func quantile(values []float64, quarter int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)*quarter/4]
}

// cpuTime returns the processor time that a process has used, in clock ticks.
func cpuTime(tb testing.TB, pid int) int64 {
	tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')'):]))
	var user, system int64
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		tb.Fatal(err)
	}
	return user + system
}
