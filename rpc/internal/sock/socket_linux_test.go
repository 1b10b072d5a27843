package sock

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// TestWritev writes pieces of all sizes, with and without sleeping.
func TestWritev(t *testing.T) {
	for _, maySleep := range []bool{false, true} {
		a, b := connected(t, "unix")
		s := Of(a)
		rng := rand.New(rand.NewPCG(1, 2))
		var bufs [][]byte
		var want []byte
		for i := range 2500 { // more than one call takes
			n := rng.IntN(100)
			if i%100 == 0 {
				n = rawMost * (1 + rng.IntN(3))
			}
			p := bytes.Repeat([]byte{byte(i)}, n)
			bufs = append(bufs, p)
			want = append(want, p...)
		}
		read := make(chan []byte)
		go func() {
			got, _ := io.ReadAll(b)
			read <- got
		}()
		slept, left := 0, bufs
		for len(left) > 0 {
			n, again, err := s.writev(left, maySleep, func() { slept++ })
			if err != nil || again && maySleep {
				t.Fatalf("again %v, %v", again, err)
			}
			for len(left) > 0 && n >= len(left[0]) {
				n -= len(left[0])
				left = left[1:]
			}
			if n > 0 {
				left[0] = left[0][n:]
			}
		}
		a.Close()
		if got := <-read; !bytes.Equal(got, want) {
			t.Errorf("%d bytes came, want %d", len(got), len(want))
		}
		if !maySleep && slept > 0 {
			t.Error("it has slept")
		}
		b.Close()
	}
}

// TestRawCallsAreShort: one system call that the scheduler is not told about moves two
// frames at most.
func TestRawCallsAreShort(t *testing.T) {
	for name, bufs := range map[string][][]byte{
		"one":  {make([]byte, 3*rawMost)},
		"two":  {make([]byte, 10), make([]byte, 2*rawMost)},
		"many": {make([]byte, rawMost/2), make([]byte, rawMost/2), make([]byte, rawMost/2)},
	} {
		a, b := connected(t, "unix")
		w := &Of(a).write
		for _, p := range bufs {
			w.add(p)
		}
		w.iov = w.all
		_ = rawOf(a.(*net.UnixConn)).Write(func(fd uintptr) bool {
			if n, errno := w.writeNow(fd); errno != 0 || n > rawMost || n == 0 {
				t.Errorf("%s: one call wrote %d bytes, %v", name, n, errno)
			}
			return true
		})
		a.Close()
		b.Close()
	}
}
