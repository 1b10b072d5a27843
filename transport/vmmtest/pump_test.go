package vmmtest

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A script is a stream that is read from a reader and notes what is written.
type script struct {
	io.Reader
	writes []int
	times  []time.Duration
	start  time.Time
}

func (s *script) Write(b []byte) (int, error) {
	s.writes = append(s.writes, len(b))
	s.times = append(s.times, time.Since(s.start))
	return len(b), nil
}

func (*script) SetReadDeadline(time.Time) error { return nil }
func (*script) CloseWrite() error               { return nil }
func (*script) CloseRead() error                { return nil }
func (*script) Close() error                    { return nil }
func (*script) Reset()                          {}
func (*script) waitHangup() bool                { return false }

// pumped passes n bytes to a guest that takes all, and returns what it saw.
func pumped(n int, f Flow, seed uint64) *script {
	v := &VMM{}
	v.mode.Store(newMode(Faults{ToGuest: f, Seed: seed}, false))
	host := &script{Reader: bytes.NewReader(make([]byte, n))}
	guest := &script{Reader: bytes.NewReader(nil), start: time.Now()}
	l := newLink(v, host)
	l.join(guest, seed)
	l.run()
	return guest
}

func TestSlices(t *testing.T) {
	total := func(sizes []int) (sum int) {
		for _, n := range sizes {
			sum += n
		}
		return sum
	}
	got := pumped(1000, Flow{Slice: 17}, 1).writes
	sizes := make(map[int]bool)
	for _, n := range got {
		if n < 1 || n > 17 {
			t.Errorf("a slice of %d bytes", n)
		}
		sizes[n] = true
	}
	if len(sizes) < 10 || total(got) != 1000 {
		t.Errorf("%d sizes, %d bytes; want more than 10 sizes, 1000 bytes", len(sizes), total(got))
	}
	if diff := cmp.Diff(got, pumped(1000, Flow{Slice: 17}, 1).writes); diff != "" {
		t.Errorf("the same seed gave other slices:\n%s", diff)
	}
	if cmp.Equal(got, pumped(1000, Flow{Slice: 17}, 2).writes) {
		t.Error("another seed gave the same slices")
	}
	if got, want := pumped(3, Flow{Slice: 1}, 1).writes, []int{1, 1, 1}; !cmp.Equal(got, want) {
		t.Errorf("slices %v, want %v", got, want)
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		got := pumped(3, Flow{Slice: 1, Latency: 20 * ms}, 1).times
		if want := []time.Duration{20 * ms, 40 * ms, 60 * ms}; !cmp.Equal(got, want) {
			t.Errorf("written at %v, want %v", got, want)
		}
		previous := time.Duration(0)
		different := make(map[time.Duration]bool)
		for _, at := range pumped(50, Flow{Slice: 1, Latency: 20 * ms, Jitter: 15 * ms}, 1).times {
			d := at - previous
			if d < 5*ms || d > 35*ms {
				t.Errorf("latency %v, want 5 to 35 ms", d)
			}
			previous = at
			different[d] = true
		}
		if len(different) < 25 {
			t.Errorf("%d different latencies of 50", len(different))
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		got := pumped(10_000, Flow{Rate: 1000}, 1)
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("10,000 bytes at 1,000 a second took %v", d)
		}
		for _, n := range got.writes {
			if n > 20 {
				t.Errorf("%d bytes at once, want at most 20 ms' worth", n)
			}
		}
	})
}

// A fault's offset is met to the byte whatever else cuts the bytes up.
func TestFaultOffsets(t *testing.T) {
	for _, at := range []int64{0, 1, 16, 17, 4095, 4096, 4097, 70_000} {
		for _, slice := range []int{0, 17} {
			sum := 0
			for _, n := range pumped(100_000, Flow{Fault: CloseConn, At: at, Slice: slice}, 1).writes {
				sum += n
			}
			if int64(sum) != at {
				t.Errorf("slice %d: %d bytes passed, want %d", slice, sum, at)
			}
		}
	}
}
