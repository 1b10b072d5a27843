package rpc

import (
	"testing"

	"pgregory.net/rapid"
)

// flowModel drives a sender's and a receiver's window with each other and checks
// what must hold at every step.
func flowModel(t *rapid.T) {
	size := rapid.IntRange(initialStreamWindow, 1<<24).Draw(t, "size")
	recv := newRecvWindow(size)
	send := sendWindow{avail: int64(size)}
	var wire []int         // message bytes of frames on their way
	var credits []uint32   // on their way back
	var unconsumed []int64 // costs of frames that were received
	check := func() {
		if recv.credit < 0 || recv.held < 0 || recv.freed < 0 || recv.credit+recv.held+recv.freed != recv.size {
			t.Fatalf("credit %d + held %d + freed %d != size %d", recv.credit, recv.held, recv.freed, recv.size)
		}
		var way int64
		for _, n := range wire {
			way += cost(n)
		}
		for _, n := range credits {
			way += int64(n)
		}
		if recv.freed >= leastCredit && recv.freed > (recv.size-recv.held)/2 {
			t.Fatalf("%d of %d bytes are held back, while %d are held", recv.freed, recv.size, recv.held)
		}
		if send.avail < 0 || send.avail+way != recv.credit {
			t.Fatalf("the sender may send %d, %d are on their way, the receiver allows %d", send.avail, way, recv.credit)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"send": func(t *rapid.T) {
			n := rapid.IntRange(0, maxPayload).Draw(t, "n")
			k, ok := send.fit(n, min(n, leastChunk))
			if ok != (send.avail >= cost(min(n, leastChunk))) && !(ok && k == n) {
				t.Fatalf("fit(%d) with %d: %d, %v", n, send.avail, k, ok)
			}
			if ok {
				if k > n || k < min(n, leastChunk) {
					t.Fatalf("fit(%d) = %d", n, k)
				}
				send.take(k)
				wire = append(wire, k)
			}
		},
		"arrive": func(t *rapid.T) {
			if len(wire) == 0 {
				return
			}
			if !recv.receive(wire[0]) {
				t.Fatalf("%d bytes within the credit were refused", wire[0])
			}
			unconsumed = append(unconsumed, cost(wire[0]))
			wire = wire[1:]
			if n := recv.due(); n > 0 {
				credits = append(credits, n)
			}
		},
		"oversend": func(t *rapid.T) {
			before := recv
			n := rapid.IntRange(0, 1<<30).Draw(t, "extra")
			if recv.receive(int(recv.credit) - frameCost + 1 + n) {
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
			n := recv.consume(unconsumed[i])
			unconsumed = append(unconsumed[:i], unconsumed[i+1:]...)
			if n > 0 {
				credits = append(credits, n)
			}
		},
		"credit": func(t *rapid.T) {
			if len(credits) == 0 {
				return
			}
			if !send.add(credits[0]) {
				t.Fatal("credit that was due was refused")
			}
			credits = credits[1:]
		},
		"overflow": func(t *rapid.T) {
			before := send
			n := rapid.Uint32Min(uint32(maxWindow-send.avail+1)).Draw(t, "n")
			if send.add(n) || send != before {
				t.Fatalf("%d more than %d passed the largest window", n, send.avail)
			}
		},
		"": func(*rapid.T) { check() },
	})
	// Nothing is lost: once all is consumed, at most half the window is held back.
	for _, n := range wire {
		if !recv.receive(n) {
			t.Fatal("refused")
		}
		unconsumed = append(unconsumed, cost(n))
	}
	for _, n := range unconsumed {
		recv.consume(n)
	}
	if recv.held != 0 || recv.credit <= recv.size/2 {
		t.Fatalf("after consuming all: %+v", recv)
	}
}

func TestFlow(t *testing.T) { rapid.Check(t, flowModel) }

func FuzzFlow(f *testing.F) { f.Fuzz(rapid.MakeFuzz(flowModel)) }

// TestLengthArithmetic is about lengths near 2^32, which must neither wrap nor be
// believed.
func TestLengthArithmetic(t *testing.T) {
	for _, n := range []uint32{0, 1, maxPayload, maxPayload + 1, 1 << 31, 1<<32 - 1} {
		for typ := range 256 {
			h := header{length: n, typ: frameType(typ), stream: 1}
			if err := h.check(); err == nil && n > maxPayload {
				t.Errorf("%v of %d bytes was accepted", h.typ, n)
			}
		}
	}
	w := sendWindow{avail: 1}
	for range 3 {
		if w.add(1<<32-1) || w.add(maxWindow) {
			t.Error("a window passed its maximum")
		}
	}
	if w.avail != 1 {
		t.Errorf("a refused credit was kept: %d", w.avail)
	}
}

// TestAssembly checks that long messages are put together one after another, that
// nobody is passed over, and that nothing is lost.
func TestAssembly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(1, 100).Draw(t, "limit")
		a := assembly{limit: limit}
		var all, working []*stream
		var queue []*stream
		want := map[*stream]int64{}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				s := &stream{}
				all = append(all, s)
				want[s] = rapid.Int64Range(1, 150).Draw(t, "n")
				if a.reserve(s, want[s]) {
					if len(queue) > 0 {
						t.Fatal("passed over those who wait")
					}
					working = append(working, s)
				} else {
					queue = append(queue, s)
				}
			},
			"release": func(t *rapid.T) {
				if len(working) == 0 {
					t.Skip()
				}
				s := working[0]
				working = working[1:]
				next := a.release(s)
				for next != nil {
					if next != queue[0] {
						t.Fatal("not the first in the queue")
					}
					if !a.reserve(next, want[next]) {
						if a.used == 0 {
							t.Fatal("refused although nothing is used")
						}
						break
					}
					working = append(working, next)
					queue = queue[1:]
					next = nil
					if len(queue) > 0 {
						next = queue[0]
					}
				}
			},
			"give up": func(t *rapid.T) {
				if len(queue) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(queue)-1).Draw(t, "i")
				a.release(queue[i])
				queue = append(queue[:i], queue[i+1:]...)
			},
			"": func(t *rapid.T) {
				var used int64
				for _, s := range working {
					used += want[s]
				}
				if a.used != used || len(a.queue) != len(queue) {
					t.Fatalf("used %d, want %d; %d wait, want %d", a.used, used, len(a.queue), len(queue))
				}
				if len(working) > 1 && used > limit {
					t.Fatalf("%d of %d bytes for %d messages", used, limit, len(working))
				}
				if len(working) == 0 && len(queue) > 0 && a.used > 0 {
					t.Fatal("stuck")
				}
			},
		})
	})
}
