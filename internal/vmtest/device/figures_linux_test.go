package device

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/transport"
)

// A figure is something that is measured some times.
type figure struct {
	name    string
	measure func() (float64, error)
	unit    string
	cpu     bool // say what the device's process takes
	values  []float64
	used    time.Duration // by the device
}

const (
	figureRounds = 5
	figureBytes  = 32 << 20
	figureTrips  = 300
)

// ddArgs has dd write figureBytes to its stdout.
var ddArgs = []string{"if=/dev/zero", "bs=64k", fmt.Sprintf("count=%d", figureBytes>>16)}

// BenchmarkBoot measures the time from the start of the VM to the agent's first
// answer.
//
//	go run ./internal/vmtest/lab device -- -test.run NONE -test.bench Boot -test.benchtime 10x
func BenchmarkBoot(b *testing.B) {
	for _, boot := range loadGuests(b).Boots {
		b.Run(boot.Name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				m := newMachine(b, boot)
				m.serveDevice(b)
				took = append(took, m.start(b))
				m.kill()
				m.dev.Close()
			}
			slices.Sort(took)
			b.Logf("%d boots: median %v, from %v to %v", len(took), took[len(took)/2].Round(time.Millisecond), took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
		})
	}
}

// BenchmarkFigures measures what docs/performance.md says of the device: bare
// connections and the agent's, round by round after each other, and the agent on
// a Unix socket beside them.
//
//	go run ./internal/vmtest/lab device -- -test.run NONE -test.bench Figures
func BenchmarkFigures(b *testing.B) {
	guests := loadGuests(b)
	for _, boot := range guests.Boots {
		b.Run(boot.Name, func(b *testing.B) {
			m := newMachine(b, boot)
			keeper := m.startKeeper(b, guests.HostCtl)
			b.Logf("boot to the first answer: %v", m.start(b).Round(time.Millisecond))
			m.helper(b)
			local := startLocal(b, guests.Agent)
			figures := []*figure{
				{name: "bare, guest to host", unit: "MB/s", cpu: true, measure: func() (float64, error) { return source(b, m) }},
				{name: "bare, of a pipe of dd's", unit: "MB/s", cpu: true, measure: func() (float64, error) { return drain(b, m, portPipe) }},
				{name: "exec stdout", unit: "MB/s", cpu: true, measure: func() (float64, error) { return stdout(b, m.sdk) }},
				{name: "bare, host to guest", unit: "MB/s", cpu: true, measure: func() (float64, error) { return sink(b, m) }},
				{name: "exec stdin", unit: "MB/s", cpu: true, measure: func() (float64, error) { return stdin(b, m.sdk) }},
				{name: "bare 64-byte echo", unit: "µs", cpu: true, measure: func() (float64, error) { return trips(b, m) }},
				{name: "health call", unit: "µs", cpu: true, measure: func() (float64, error) { return calls(b, m.sdk) }},
				{name: "exec stdout, Unix socket", unit: "MB/s", measure: func() (float64, error) { return stdout(b, local) }},
				{name: "health call, Unix socket", unit: "µs", measure: func() (float64, error) { return calls(b, local) }},
			}
			for b.Loop() {
				for range figureRounds {
					for _, f := range figures {
						before := cpuTime(b, childOf(b, keeper))
						v, err := f.measure()
						if err != nil {
							b.Fatalf("%s: %v", f.name, err)
						}
						f.used += cpuTime(b, childOf(b, keeper)) - before
						f.values = append(f.values, v)
					}
				}
			}
			for _, f := range figures {
				slices.Sort(f.values)
				line := fmt.Sprintf("%-26s median %6.0f %s, from %.0f to %.0f", f.name, f.values[len(f.values)/2], f.unit, f.values[0], f.values[len(f.values)-1])
				if per := f.used / time.Duration(len(f.values)); f.cpu && f.unit == "MB/s" {
					line += fmt.Sprintf("; device: %v a MiB", (per / (figureBytes >> 20)).Round(time.Microsecond))
				} else if f.cpu {
					line += fmt.Sprintf("; device: %v each", (per / figureTrips).Round(time.Microsecond))
				}
				b.Log(line)
			}
		})
	}
}

// startLocal starts the agent on a Unix socket of this machine.
func startLocal(b *testing.B, program string) *guest.Guest {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	cmd := exec.Command(program, "--listen", "unix:"+path, "--state-dir", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(b.Context(), callLimit)
	defer cancel()
	for {
		g, err := guest.Dial(ctx, "unix:"+path, nil)
		if err == nil {
			b.Cleanup(func() { g.Close() })
			return g
		}
		if ctx.Err() != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// cpuTime returns the time that a process has used.
func cpuTime(b *testing.B, pid int) time.Duration {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		b.Fatal(err)
	}
	var ns int64
	for _, task := range tasks {
		var n int64
		data, _ := os.ReadFile(task) // a thread may have ended
		if _, err := fmt.Sscan(string(data), &n); err == nil {
			ns += n
		}
	}
	return time.Duration(ns)
}

// connectUDS connects to a port of the guest as a program of the host does.
func connectUDS(b *testing.B, m *machine, port uint32) (*transport.Conn, error) {
	ctx, cancel := context.WithTimeout(b.Context(), callLimit)
	defer cancel()
	return transport.Dial(ctx, transport.MuxAddr(m.uds, port), nil)
}

func rate(n int64, since time.Time) float64 { return float64(n) / 1e6 / time.Since(since).Seconds() }

func source(b *testing.B, m *machine) (float64, error) { return drain(b, m, portSource) }

// drain reads figureBytes from a port of the guest.
func drain(b *testing.B, m *machine, port uint32) (float64, error) {
	c, err := connectUDS(b, m, port)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if err := binary.Write(c, binary.BigEndian, uint64(figureBytes)); err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, struct{ io.Reader }{c})
	if err == nil && n != figureBytes {
		err = fmt.Errorf("%d bytes", n)
	}
	return rate(n, start), err
}

func sink(b *testing.B, m *machine) (float64, error) {
	c, err := connectUDS(b, m, portSink)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if _, err := io.Copy(struct{ io.Writer }{c}, pattern(figureBytes)); err != nil {
		return 0, err
	}
	if err := c.CloseWrite(); err != nil {
		return 0, err
	}
	var n int64
	err = binary.Read(c, binary.BigEndian, &n)
	return rate(n, start), err
}

func trips(b *testing.B, m *machine) (float64, error) {
	c, err := connectUDS(b, m, portEcho)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return median(func() error {
		buf := make([]byte, 64)
		if _, err := c.Write(buf); err != nil {
			return err
		}
		_, err := io.ReadFull(c, buf)
		return err
	})
}

// median measures something, in microseconds.
func median(f func() error) (float64, error) {
	var all []float64
	for range figureTrips {
		start := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		all = append(all, float64(time.Since(start).Nanoseconds())/1e3)
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

func calls(b *testing.B, g *guest.Guest) (float64, error) {
	client := healthpb.NewHealthClient(g.Conn())
	return median(func() error {
		_, err := client.Check(b.Context(), &healthpb.HealthCheckRequest{})
		return err
	})
}

func stdout(b *testing.B, g *guest.Guest) (float64, error) {
	start := time.Now()
	var n counter
	cmd := g.Command(b.Context(), "dd", ddArgs...)
	cmd.Stdout = &n
	err := cmd.Run()
	if err == nil && n != figureBytes {
		err = fmt.Errorf("%d bytes", n)
	}
	return rate(int64(n), start), err
}

func stdin(b *testing.B, g *guest.Guest) (float64, error) {
	start := time.Now()
	cmd := g.Command(b.Context(), "dd", "of=/dev/null", "bs=64k")
	cmd.Stdin = pattern(figureBytes)
	_, err := cmd.Output()
	return rate(figureBytes, start), err
}

// A counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
