package wire

import (
	"testing"

	"pgregory.net/rapid"
)

// flowModel drives a sender's and a receiver's window with each other and checks
// what must hold at every step.
func flowModel(t *rapid.T) {
	size := rapid.IntRange(InitialStreamWindow, 1<<24).Draw(t, "size")
	recv := NewRecvWindow(size)
	send := SendWindow{Avail: int64(size)}
	var wire []int         // message bytes of frames on their way
	var credits []uint32   // on their way back
	var unconsumed []int64 // costs of frames that were received
	check := func() {
		if recv.Credit < 0 || recv.Held < 0 || recv.Freed < 0 || recv.Credit+recv.Held+recv.Freed != recv.Size {
			t.Fatalf("credit %d + held %d + freed %d != size %d", recv.Credit, recv.Held, recv.Freed, recv.Size)
		}
		var way int64
		for _, n := range wire {
			way += Cost(n)
		}
		for _, n := range credits {
			way += int64(n)
		}
		if recv.Freed >= LeastCredit && recv.Freed > (recv.Size-recv.Held)/2 {
			t.Fatalf("%d of %d bytes are held back, while %d are held", recv.Freed, recv.Size, recv.Held)
		}
		if send.Avail < 0 || send.Avail+way != recv.Credit {
			t.Fatalf("the sender may send %d, %d are on their way, the receiver allows %d", send.Avail, way, recv.Credit)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"send": func(t *rapid.T) {
			n := rapid.IntRange(0, MaxPayload).Draw(t, "n")
			k, ok := send.Fit(n, min(n, (16<<10)))
			if ok != (send.Avail >= Cost(min(n, (16<<10)))) && !(ok && k == n) {
				t.Fatalf("fit(%d) with %d: %d, %v", n, send.Avail, k, ok)
			}
			if ok {
				if k > n || k < min(n, (16<<10)) {
					t.Fatalf("fit(%d) = %d", n, k)
				}
				send.Take(k)
				wire = append(wire, k)
			}
		},
		"arrive": func(t *rapid.T) {
			if len(wire) == 0 {
				return
			}
			if !recv.Receive(wire[0]) {
				t.Fatalf("%d bytes within the credit were refused", wire[0])
			}
			unconsumed = append(unconsumed, Cost(wire[0]))
			wire = wire[1:]
			if n := recv.Due(); n > 0 {
				credits = append(credits, n)
			}
		},
		"oversend": func(t *rapid.T) {
			before := recv
			n := rapid.IntRange(0, 1<<30).Draw(t, "extra")
			if recv.Receive(int(recv.Credit) - FrameCost + 1 + n) {
				t.Fatal("more than the credit was accepted")
			}
			if recv != before {
				t.Fatal("a refusal changed the window")
			}
		},
		"consume": func(t *rapid.T) {
			if len(unconsumed) == 0 {
				return
			}
			i := rapid.IntRange(0, len(unconsumed)-1).Draw(t, "i")
			n := recv.Consume(unconsumed[i])
			unconsumed = append(unconsumed[:i], unconsumed[i+1:]...)
			if n > 0 {
				credits = append(credits, n)
			}
		},
		"credit": func(t *rapid.T) {
			if len(credits) == 0 {
				return
			}
			if !send.Add(credits[0]) {
				t.Fatal("credit that was due was refused")
			}
			credits = credits[1:]
		},
		"overflow": func(t *rapid.T) {
			before := send
			n := rapid.Uint32Min(uint32(MaxWindow-send.Avail+1)).Draw(t, "n")
			if send.Add(n) || send != before {
				t.Fatalf("%d more than %d passed the largest window", n, send.Avail)
			}
		},
		"": func(*rapid.T) { check() },
	})
	// Nothing is lost: once all is consumed, at most half the window is held back.
	for _, n := range wire {
		if !recv.Receive(n) {
			t.Fatal("refused")
		}
		unconsumed = append(unconsumed, Cost(n))
	}
	for _, n := range unconsumed {
		recv.Consume(n)
	}
	if recv.Held != 0 || recv.Credit <= recv.Size/2 {
		t.Fatalf("after consuming all: %+v", recv)
	}
}

func TestFlow(t *testing.T) { rapid.Check(t, flowModel) }

func FuzzFlow(f *testing.F) { f.Fuzz(rapid.MakeFuzz(flowModel)) }

// TestLengthArithmetic is about lengths near 2^32, which must neither wrap nor be
// believed.
func TestLengthArithmetic(t *testing.T) {
	for _, n := range []uint32{0, 1, MaxPayload, MaxPayload + 1, 1 << 31, 1<<32 - 1} {
		for typ := range 256 {
			h := Header{Length: n, Type: FrameType(typ), Stream: 1}
			if err := h.Check(); err == nil && n > MaxPayload {
				t.Errorf("%v of %d bytes was accepted", h.Type, n)
			}
		}
	}
	w := SendWindow{Avail: 1}
	for range 3 {
		if w.Add(1<<32-1) || w.Add(MaxWindow) {
			t.Error("a window passed its maximum")
		}
	}
	if w.Avail != 1 {
		t.Errorf("a refused credit was kept: %d", w.Avail)
	}
}
