package vmmtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// directions runs f for either direction: from sends to to, and faults makes a
// Flow the fault of that direction.
func directions(t *testing.T, f func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults)) {
	t.Run("to guest", func(t *testing.T) {
		v, l := start(t, vmmtest.Config{})
		host, guest := pair(t, v, l)
		f(t, v, host, guest, func(f vmmtest.Flow) vmmtest.Faults { return vmmtest.Faults{ToGuest: f} })
	})
	t.Run("to host", func(t *testing.T) {
		v, l := start(t, vmmtest.Config{})
		host, guest := pair(t, v, l)
		f(t, v, guest, host, func(f vmmtest.Flow) vmmtest.Faults { return vmmtest.Faults{ToHost: f} })
	})
}

func sideName(c halfCloser) string {
	if _, ok := c.(*vmmtest.Conn); ok {
		return "guest"
	}
	return "host"
}

// A connection is reset after exactly N bytes, and both sides see it, whether
// or not more bytes follow.
func TestResetAfterBytes(t *testing.T) {
	data := noise(200 << 10)
	for _, at := range []int{0, 1, 100, 4096, 64<<10 + 1, len(data)} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
				v.SetFaults(faults(vmmtest.Flow{Fault: vmmtest.ResetConn, At: int64(at)}))
				written := make(chan error, 1)
				go func() {
					_, err := from.Write(data)
					written <- err
				}()
				got, err := readAll(t, to)
				if !bytes.Equal(got, data[:at]) {
					t.Errorf("read %d bytes, want %d", len(got), at)
				}
				checkReset(t, sideName(to), err)
				// A Unix socket tells of a reset once: to the reader or the writer.
				_, err = readAll(t, from)
				if werr := <-written; werr != nil {
					err = errors.Join(err, werr)
				}
				checkReset(t, sideName(from), err)
				wait.For(t, "1 reset", func() bool { return v.Stats().Resets == 1 })
			})
		})
	}
}

// The next connection counts its bytes anew, so that a fault at an offset
// strikes again and again.
func TestEachConnectionIsReset(t *testing.T) {
	v, l := start(t, vmmtest.Config{Faults: vmmtest.Faults{ToGuest: vmmtest.Flow{Fault: vmmtest.ResetConn, At: 3}}})
	for range 3 {
		host, guest := pair(t, v, l)
		go host.Write([]byte("hello"))
		got, err := readAll(t, guest)
		if string(got) != "hel" {
			t.Errorf("read %q", got)
		}
		checkReset(t, "guest", err)
	}
}

func TestCloseAfterBytes(t *testing.T) {
	directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
		v.SetFaults(faults(vmmtest.Flow{Fault: vmmtest.CloseConn, At: 5}))
		mustWrite(t, from, []byte("hello"))
		for _, c := range []halfCloser{to, from} {
			want := ""
			if c == to {
				want = "hello"
			}
			if got, err := readAll(t, c); string(got) != want || err != nil {
				t.Errorf("%s: read %q, %v; want %q and EOF", sideName(c), got, err, want)
			}
		}
		wait.For(t, "the connection is gone", func() bool { return v.Stats().Open == 0 })
		if s := v.Stats(); s.Resets != 0 {
			t.Errorf("stats %+v; want no reset", s)
		}
	})
}

// A fault without an offset strikes an idle open connection at once.
func TestFaultStrikesOpenConnection(t *testing.T) {
	directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
		mustWrite(t, from, []byte("hello"))
		mustRead(t, to, []byte("hello"))
		v.SetFaults(faults(vmmtest.Flow{Fault: vmmtest.ResetConn}))
		for _, c := range []halfCloser{to, from} {
			_, err := readAll(t, c)
			checkReset(t, sideName(c), err)
		}
	})
}

// One direction is cut: its reader gets the end, its writer notices nothing, and
// the other direction goes on.
func TestEndFlow(t *testing.T) {
	directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
		v.SetFaults(faults(vmmtest.Flow{Fault: vmmtest.EndFlow, At: 5}))
		from.SetWriteDeadline(time.Now().Add(patience))
		mustWrite(t, from, append([]byte("hello"), noise(4<<20)...))
		if got, err := readAll(t, to); string(got) != "hello" || err != nil {
			t.Errorf("read %q, %v; want hello and EOF", got, err)
		}
		mustWrite(t, to, []byte("answer"))
		mustRead(t, from, []byte("answer"))
		// The fault does not end with SetFaults: an end of file is for ever.
		v.SetFaults(vmmtest.Faults{})
		mustWrite(t, from, []byte("more"))
		from.CloseWrite()
		to.CloseWrite()
		wait.For(t, "the connection is gone", func() bool { return v.Stats().Open == 0 })
	})
}

// A direction stalls: its writer is stopped by the full buffers, the other
// direction goes on, and afterwards nothing is lost.
func TestStall(t *testing.T) {
	directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
		v.SetFaults(faults(vmmtest.Flow{Fault: vmmtest.Stall, At: 5}))
		data := noise(8 << 20)
		from.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := from.Write(data)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("wrote %d bytes, %v; want a timeout", n, err)
		}
		from.SetWriteDeadline(time.Time{})
		mustRead(t, to, data[:5])
		mustBeSilent(t, to)
		mustWrite(t, to, []byte("answer"))
		mustRead(t, from, []byte("answer"))

		v.SetFaults(vmmtest.Faults{})
		go mustWriteAll(t, from, data[n:])
		mustRead(t, to, data[5:])
	})
}

// A direction becomes a black hole, for the end of the data too.
func TestDrop(t *testing.T) {
	directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
		v.SetFaults(faults(vmmtest.Flow{Fault: vmmtest.Drop, At: 5}))
		from.SetWriteDeadline(time.Now().Add(patience))
		const lost = 4 << 20
		mustWrite(t, from, append([]byte("hello"), noise(lost)...))
		mustRead(t, to, []byte("hello"))
		mustBeSilent(t, to)
		mustWrite(t, to, []byte("answer"))
		mustRead(t, from, []byte("answer"))
		from.Close()
		mustBeSilent(t, to)
	})
}

func TestDropEnds(t *testing.T) {
	directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
		v.SetFaults(faults(vmmtest.Flow{Fault: vmmtest.Drop}))
		mustWrite(t, from, noise(1<<20))
		v.SetFaults(vmmtest.Faults{})
		// What is still under way now arrives; so does all that is written now.
		mustWrite(t, from, []byte("\nagain"))
		from.CloseWrite()
		got, err := readAll(t, to)
		if err != nil || !bytes.HasSuffix(got, []byte("\nagain")) {
			t.Errorf("read %d bytes, %v; want the last", len(got), err)
		}
	})
}

func TestFlipBit(t *testing.T) {
	data := noise(100 << 10)
	for _, at := range []int{0, 1, 7, 4096, 70_003, len(data) - 1} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
				v.SetFaults(faults(vmmtest.Flow{Fault: vmmtest.FlipBit, At: int64(at)}))
				sent := bytes.Clone(data)
				go mustWriteAll(t, from, sent)
				want := bytes.Clone(data)
				want[at] ^= 1 << (at % 8)
				mustRead(t, to, want)
			})
		})
	}
}

// Slow and sliced connections are slow and sliced, and lose nothing.
func TestSlowFlow(t *testing.T) {
	data := noise(3000)
	flows := map[string]vmmtest.Flow{
		"slices":  {Slice: 17},
		"latency": {Latency: 2 * time.Millisecond, Jitter: time.Millisecond},
		"rate":    {Rate: 100_000},
		"all":     {Slice: 500, Latency: time.Millisecond, Jitter: time.Millisecond, Rate: 1_000_000},
	}
	for name, flow := range flows {
		t.Run(name, func(t *testing.T) {
			directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
				v.SetFaults(faults(flow))
				go func() {
					mustWriteAll(t, from, data)
					from.CloseWrite()
				}()
				if got, err := readAll(t, to); err != nil || !bytes.Equal(got, data) {
					t.Errorf("read %d bytes, %v; want %d", len(got), err, len(data))
				}
			})
		})
	}
}

// A connection that waits, for its rate or its latency, can be closed.
func TestSlowFlowEnds(t *testing.T) {
	for name, flow := range map[string]vmmtest.Flow{"latency": {Latency: time.Hour}, "rate": {Rate: 1}} {
		t.Run(name, func(t *testing.T) {
			directions(t, func(t *testing.T, v *vmmtest.VMM, from, to halfCloser, faults func(vmmtest.Flow) vmmtest.Faults) {
				v.SetFaults(faults(flow))
				mustWrite(t, from, noise(10_000))
				v.Reset()
				_, err := readAll(t, to)
				checkReset(t, sideName(to), err)
			})
		})
	}
}

// A paused guest stands still in both directions and goes on where it was.
func TestPause(t *testing.T) {
	v, l := start(t, vmmtest.Config{})
	host, guest := pair(t, v, l)
	v.Pause()
	mustWrite(t, host, []byte("to guest"))
	mustWrite(t, guest, []byte("to host"))
	mustBeSilent(t, host)
	mustBeSilent(t, guest)
	host.CloseWrite()
	mustBeSilent(t, guest)
	v.Resume()
	mustRead(t, host, []byte("to host"))
	if got, err := readAll(t, guest); string(got) != "to guest" || err != nil {
		t.Errorf("guest read %q, %v", got, err)
	}

	// A paused guest is reset all the same, and pausing twice is once.
	host, guest = pair(t, v, l)
	v.Pause()
	v.Pause()
	v.Reset()
	_, err := readAll(t, host)
	checkReset(t, "host", err)
	v.Resume()
	_, err = readAll(t, guest)
	checkReset(t, "guest", err)
}

func TestResetEvery(t *testing.T) {
	v, l := start(t, vmmtest.Config{Faults: vmmtest.Faults{ResetEvery: 5 * time.Millisecond}})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	wait.For(t, "3 resets", func() bool {
		c, err := transport.Dial(t.Context(), transport.MuxAddr(v.Path, 1000), nil)
		if err == nil {
			defer c.Close()
			readAll(t, c)
		}
		return v.Stats().Resets >= 3
	})
	v.SetFaults(vmmtest.Faults{})
	c := dial(t, v)
	mustWrite(t, c, []byte("x"))
	mustRead(t, c, []byte("x"))
}

// Firecracker's half-closes: the host's ends everything, the guest's is not
// shown.
func TestNoHalfClose(t *testing.T) {
	v, l := start(t, vmmtest.Config{Faults: vmmtest.Faults{NoHalfClose: true}})
	host, guest := pair(t, v, l)
	mustWrite(t, host, []byte("question"))
	host.CloseWrite()
	if got, err := readAll(t, guest); string(got) != "question" || err != nil {
		t.Errorf("guest read %q, %v", got, err)
	}
	if _, err := guest.Write([]byte("answer")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("guest's write: %v, want %v", err, syscall.EPIPE)
	}
	if got, err := readAll(t, host); len(got) != 0 || err != nil {
		t.Errorf("host read %q, %v", got, err)
	}

	host, guest = pair(t, v, l)
	mustWrite(t, guest, []byte("last words"))
	guest.CloseWrite()
	mustRead(t, host, []byte("last words"))
	mustBeSilent(t, host)
	mustWrite(t, host, []byte("still"))
	mustRead(t, guest, []byte("still"))
	guest.Close()
	if got, err := readAll(t, host); len(got) != 0 || err != nil {
		t.Errorf("host read %q, %v", got, err)
	}
}
