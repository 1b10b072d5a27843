package guest_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vsockrpc/vsockrpc/guest"
)

// knownFile writes the beginning of the known stream 1 to a file.
func knownFile(tb testing.TB, size int64) string {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "known"))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.CopyN(f, knownStream(1), size); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	return f.Name()
}

// readers is how many others there are beside a stalled one.
const readers = 99

// catAll has all readers read a file of the guest at the same time, over one
// connection. Each checks every byte, if check is set, or else counts them.
func catAll(tb testing.TB, g *guest.Guest, file string, size int64, check bool) {
	tb.Helper()
	var all errgroup.Group
	for range readers {
		all.Go(func() error {
			var n counter
			checked := newChecker(1)
			cmd := g.Command(tb.Context(), "cat", file)
			if cmd.Stdout = &n; check {
				cmd.Stdout = checked
			}
			err := cmd.Run()
			if got := max(int64(n), checked.n); err != nil || got != size || checked.err != nil {
				return fmt.Errorf("got %d of %d bytes: %w", got, size, errors.Join(err, checked.err, io.ErrUnexpectedEOF))
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		tb.Error(err)
	}
}

// stalled starts a command of whose output a single byte is read, and returns
// what reads the rest.
func stalled(tb testing.TB, g *guest.Guest, file string) (cmd *guest.Cmd, rest io.Reader) {
	tb.Helper()
	cmd = g.Command(tb.Context(), "cat", file)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	if _, err := io.ReadFull(pipe, make([]byte, 1)); err != nil {
		tb.Fatal(err)
	}
	return cmd, pipe
}

// TestStalledReader has one reader stall beside all others on one connection:
// they get all their bytes, the agent's memory stays bounded, and the stalled
// one then goes on where it was.
func TestStalledReader(t *testing.T) {
	const size = 1 << 20
	const bigSize = 16 * size // far more than ring, pipe and windows hold
	small, big := knownFile(t, size), knownFile(t, bigSize)
	stallFor := time.Duration(0)
	if os.Getenv("VSOCKRPC_STRESS") != "" {
		stallFor = time.Minute
	}
	g := dialAgent(t, startAgentProcess(t).target)
	before := peakMemory(t, g)
	cmd, rest := stalled(t, g, big)
	since := time.Now()
	for first := true; first || time.Since(since) < stallFor; first = false {
		catAll(t, g, small, size, true)
	}
	// The rings' memory, as much again that lies in their pools for a while, both
	// once more until the collector comes; and each command's goroutines and
	// messages.
	grown, bound := peakMemory(t, g)-before, uint64(4*agentRings+(readers+1)*(256<<10))
	t.Logf("%d commands at a time, one stalled: the agent took %.1f MiB more, at most %.1f MiB", readers+1, float64(grown)/(1<<20), float64(bound)/(1<<20))
	if grown > bound {
		t.Errorf("the agent's memory has grown by %d bytes, more than %d", grown, bound)
	}
	checked := newChecker(1)
	checked.Write([]byte{firstKnown()})
	if _, err := io.Copy(checked, rest); err != nil || checked.n != bigSize || checked.err != nil {
		t.Errorf("the stalled one got %d of %d bytes, %v, %v", checked.n, bigSize, err, checked.err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// firstKnown is the first byte of the known stream 1.
func firstKnown() byte {
	var b [1]byte
	io.ReadFull(knownStream(1), b[:])
	return b[0]
}

// BenchmarkBesideStalled has the readers take turns on two agents: one has a
// reader beside them who stalls for the whole time, the other has not. Run it
// with -benchtime 60s. ratio is the median of the rounds' speeds with the
// stalled one to those without, with the quartiles.
func BenchmarkBesideStalled(b *testing.B) {
	const size = 8 << 20
	file, big := knownFile(b, size), knownFile(b, 2*size)
	with, alone := startAgentProcess(b), startAgentProcess(b)
	guests := [2]*guest.Guest{dialAgent(b, with.target), dialAgent(b, alone.target)}
	before := peakMemory(b, guests[0])
	cmd, rest := stalled(b, guests[0], big)
	var ratios, speeds []float64
	for b.Loop() {
		var took [2]time.Duration
		for i := range guests {
			if len(ratios)%2 == 1 {
				i = 1 - i
			}
			start := time.Now()
			catAll(b, guests[i], file, size, false)
			took[i] = time.Since(start)
		}
		ratios = append(ratios, took[1].Seconds()/took[0].Seconds())
		speeds = append(speeds, readers*size/1e6/took[0].Seconds())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(quantile(speeds, 2), "MB/s")
	b.ReportMetric(float64(peakMemory(b, guests[0])-before)/(1<<20), "agent-MiB")
	for i, name := range []string{"ratio-q1", "ratio", "ratio-q3"} {
		b.ReportMetric(quantile(ratios, i+1), name)
	}
	if n, err := io.Copy(io.Discard, rest); err != nil || n != 2*size-1 {
		b.Errorf("the stalled one got %d more bytes, %v", n, err)
	}
	if err := cmd.Wait(); err != nil {
		b.Error(err)
	}
}
