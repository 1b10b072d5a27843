//go:build linux

package process

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// stressed returns n, ten times that if VSOCKRPC_STRESS is set, and little in
// the lab, whose machine is slow.
func stressed(n int) int {
	switch {
	case os.Getenv("VSOCKRPC_STRESS") != "":
		return 10 * n
	case os.Getenv("VSOCKRPC_LAB") != "":
		return n / 20
	}
	return n
}

// holdings is what sessions must not leave behind.
type holdings struct {
	goroutines, fds, children int
	memory                    int64
}

func (c *carrier) holdings(t testing.TB) holdings {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	list, err := pids()
	if err != nil {
		t.Fatal(err)
	}
	h := holdings{goroutines: runtime.NumGoroutine(), fds: len(fds), memory: c.srv.memory.pool.Used()}
	for _, pid := range list {
		if p, ok := readStat(pid); ok && p.parent == os.Getpid() {
			h.children++
		}
	}
	return h
}

// leavesNothing checks that f leaves nothing behind but what was there.
func (c *carrier) leavesNothing(t *testing.T, f func()) {
	t.Helper()
	// The first session of all brings what stays.
	if _, err := c.run(testContext(t), shell("exit 0"), ""); err != nil {
		t.Fatal(err)
	}
	before := c.holdings(t)
	f()
	// A connection may keep a few goroutines more or less than it had.
	const some = 8
	var after holdings
	defer func() {
		if t.Failed() {
			t.Logf("before %+v, after %+v", before, after)
		}
	}()
	wait.For(t, "nothing is left", func() bool {
		after = c.holdings(t)
		return after.goroutines <= before.goroutines+some && after.fds <= before.fds && after.children <= before.children && after.memory <= before.memory
	})
}

// runAcknowledged is one exec as the command line's: it acknowledges the exit.
func (c *carrier) runAcknowledged(ctx context.Context, spec *guestv1.SessionSpec) (*guestv1.Exit, error) {
	s, err := c.exec(ctx, &guestv1.Open{SessionId: newID(), Spec: spec, AcknowledgesExit: true})
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if err := s.until(func() bool { return s.exit != nil }); err != nil {
		return nil, err
	}
	if err := s.leave(false); err != nil {
		return nil, err
	}
	if _, err := s.recv(); !isEnd(err) {
		return nil, fmt.Errorf("after the exit came %w", err)
	}
	return s.exit, nil
}

func TestManySessionsLeaveNothing(t *testing.T) {
	c := newCarrier(t, nil)
	n := stressed(1000)
	c.leavesNothing(t, func() {
		var wg sync.WaitGroup
		work := make(chan int)
		for range 16 {
			wg.Go(func() {
				for i := range work {
					code := uint32(i % 256)
					exit, err := c.runAcknowledged(testContext(t), shell("exit "+strconv.Itoa(int(code))))
					if err != nil || exit.GetCode() != code {
						t.Errorf("exec %d: %v, %v", i, exit, err)
					}
				}
			})
		}
		for i := range n {
			work <- i
		}
		close(work)
		wg.Wait()
	})
	resp, err := c.client.ListSessions(testContext(t), &guestv1.ListSessionsRequest{})
	if err != nil || len(resp.Sessions) != 1 { // the one that was not acknowledged
		t.Errorf("%d sessions are left, %v", len(resp.GetSessions()), err)
	}
}

func TestConcurrentExecs(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := min(stressed(1000), int(min(limit.Cur, 1<<20))/8)
	c := newCarrier(t, nil)
	c.leavesNothing(t, func() {
		var wg sync.WaitGroup
		errs := make(chan error, n)
		for range n {
			wg.Go(func() {
				exit, err := c.runAcknowledged(testContext(t), &guestv1.SessionSpec{Args: args("true")})
				if err == nil && (exit.Code == nil || *exit.Code != 0) {
					err = fmt.Errorf("exit %v", exit)
				}
				errs <- err
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// Readers that stall stop their own sessions, and take no more memory than all
// may have together.
func TestStalledReaders(t *testing.T) {
	const total = 1 << 20
	stalled, size := stressed(20), stressed(4<<20)
	c := newCarrier(t, &Config{MaxRingsTotal: total})
	ctx := testContext(t)
	for range stalled {
		s, err := c.exec(ctx, &guestv1.Open{SessionId: newID(), Spec: helper(t, "endless")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.stop()
	}
	// One ring of the default size takes it all.
	wait.For(t, "the memory is used up", func() bool { return c.srv.memory.pool.Used() > total-2*largeChunk })
	s, err := c.exec(ctx, &guestv1.Open{SessionId: newID(), Spec: helper(t, "write", strconv.Itoa(size), "30011")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	for s.exit == nil {
		if err := s.next(); err != nil {
			t.Fatal(err)
		}
		// A client that finds no measure of its own full.
		if err := s.ackWhenAsked(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range s.out {
		if string(s.out[i]) != string(trueBytes(i, 0, size)) {
			t.Errorf("stream %d: %d bytes, not the true %d", i, len(s.out[i]), size)
		}
	}
	// Each stream has a little beyond that, and what is in the pipe of a process
	// that exits is taken in any case.
	most := total + (stalled+1)*outputs*smallChunk + outputs*largeChunk
	if peak := c.srv.memory.peak.Load(); peak > int64(most) {
		t.Errorf("rings took %d bytes, want at most %d", peak, most)
	}
}

// A client that only acknowledges when it is asked gets through the smallest
// ring.
func TestSmallRing(t *testing.T) {
	c := newCarrier(t, nil)
	for _, ring := range []uint64{1, 100, 5000, 100_000} {
		size := int(min(100*ring, 1<<20))
		spec := helper(t, "write", strconv.Itoa(size), "1000")
		spec.RingBytes = ring
		s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		for s.exit == nil {
			if err := s.next(); err != nil {
				t.Fatalf("ring of %d: %v", ring, err)
			}
			if err := s.ackWhenAsked(); err != nil {
				t.Fatal(err)
			}
		}
		s.stop()
		if s.at != [outputs]uint64{uint64(size), uint64(size)} {
			t.Errorf("ring of %d: got up to %v, want %d", ring, s.at, size)
		}
	}
}

func BenchmarkExecTrue(b *testing.B) {
	c := newCarrier(b, nil)
	for b.Loop() {
		if _, err := c.runAcknowledged(b.Context(), &guestv1.SessionSpec{Args: args("/bin/true")}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExecTrueLaunched(b *testing.B) {
	c := newCarrier(b, nil)
	for b.Loop() {
		spec := &guestv1.SessionSpec{Args: args("/bin/true"), Limits: &guestv1.ResourceLimits{NoNewPrivileges: true}}
		if _, err := c.runAcknowledged(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStdout(b *testing.B) {
	c := newCarrier(b, nil)
	s, err := c.exec(b.Context(), &guestv1.Open{SessionId: newID(), Spec: helper(b, "endless"), Window: 4 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer s.stop()
	b.SetBytes(1 << 20)
	at, acked := uint64(0), uint64(0)
	for b.Loop() {
		for end := at + 1<<20; at < end; {
			m, err := s.recv()
			if err != nil {
				b.Fatal(err)
			}
			at += uint64(len(m.GetOutput().GetData()))
			if at-acked >= 256<<10 {
				if err := s.ackAt(guestv1.Stream_STREAM_STDOUT, at); err != nil {
					b.Fatal(err)
				}
				acked = at
			}
		}
	}
}

func BenchmarkExecTrueAsUser(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	c := newCarrier(b, nil)
	for b.Loop() {
		spec := &guestv1.SessionSpec{Args: args("/bin/true"), User: []byte("54321")}
		if _, err := c.runAcknowledged(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
	}
}
