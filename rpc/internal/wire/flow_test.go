package wire

import (
	"testing"

	"pgregory.net/rapid"
)

// flow is a sender's and a receiver's window with what is on its way between them.
// Its methods are what may happen; Check is what must hold after each.
type flow struct {
	recv       RecvWindow
	send       SendWindow
	frames     []int    // message bytes of frames on their way
	credits    []uint32 // on their way back
	unconsumed []int64  // costs of frames that were received
}

func (f *flow) Check(t *rapid.T) {
	recv := &f.recv
	if recv.Credit < 0 || recv.Held < 0 || recv.Freed < 0 || recv.Credit+recv.Held+recv.Freed != recv.Size {
		t.Fatalf("credit %d + held %d + freed %d != size %d", recv.Credit, recv.Held, recv.Freed, recv.Size)
	}
	var way int64
	for _, n := range f.frames {
		way += Cost(n)
	}
	for _, n := range f.credits {
		way += int64(n)
	}
	if recv.Freed >= LeastCredit && recv.Freed > (recv.Size-recv.Held)/2 {
		t.Fatalf("%d of %d bytes are held back, while %d are held", recv.Freed, recv.Size, recv.Held)
	}
	if f.send.Avail < 0 || f.send.Avail+way != recv.Credit {
		t.Fatalf("the sender may send %d, %d are on their way, the receiver allows %d", f.send.Avail, way, recv.Credit)
	}
}

func (f *flow) Send(t *rapid.T) {
	n := rapid.IntRange(0, MaxPayload).Draw(t, "n")
	least := min(n, 16<<10)
	k, ok := f.send.Fit(n, least)
	if ok != (f.send.Avail >= Cost(least)) && !(ok && k == n) {
		t.Fatalf("fit(%d) with %d: %d, %v", n, f.send.Avail, k, ok)
	}
	if ok {
		if k > n || k < least {
			t.Fatalf("fit(%d) = %d", n, k)
		}
		f.send.Take(k)
		f.frames = append(f.frames, k)
	}
}

func (f *flow) Arrive(t *rapid.T) {
	if len(f.frames) == 0 {
		return
	}
	n := f.frames[0]
	f.frames = f.frames[1:]
	if !f.recv.Receive(n) {
		t.Fatalf("%d bytes within the credit were refused", n)
	}
	f.unconsumed = append(f.unconsumed, Cost(n))
	f.giveBack(f.recv.Due())
}

func (f *flow) Oversend(t *rapid.T) {
	before := f.recv
	n := rapid.IntRange(0, 1<<30).Draw(t, "extra")
	if f.recv.Receive(int(f.recv.Credit) - FrameCost + 1 + n) {
		t.Fatal("more than the credit was accepted")
	}
	if f.recv != before {
		t.Fatal("a refusal changed the window")
	}
}

func (f *flow) Consume(t *rapid.T) {
	if len(f.unconsumed) == 0 {
		return
	}
	i := rapid.IntRange(0, len(f.unconsumed)-1).Draw(t, "i")
	n := f.unconsumed[i]
	f.unconsumed = append(f.unconsumed[:i], f.unconsumed[i+1:]...)
	f.giveBack(f.recv.Consume(n))
}

// Early gives credit back before it is due.
func (f *flow) Early(t *rapid.T) {
	n := f.recv.Early()
	if n > 0 && n < LeastCredit {
		t.Fatalf("a frame for %d bytes of credit", n)
	}
	f.giveBack(n)
}

func (f *flow) giveBack(n uint32) {
	if n > 0 {
		f.credits = append(f.credits, n)
	}
}

func (f *flow) Credit(t *rapid.T) {
	if len(f.credits) == 0 {
		return
	}
	if !f.send.Add(f.credits[0]) {
		t.Fatal("credit that was due was refused")
	}
	f.credits = f.credits[1:]
}

func (f *flow) Overflow(t *rapid.T) {
	before := f.send
	n := rapid.Uint32Min(uint32(MaxWindow-f.send.Avail+1)).Draw(t, "n")
	if f.send.Add(n) || f.send != before {
		t.Fatalf("%d more than %d passed the largest window", n, f.send.Avail)
	}
}

// flowModel checks what must hold at every step, and in the end.
func flowModel(t *rapid.T) {
	size := rapid.IntRange(InitialStreamWindow, 1<<24).Draw(t, "size")
	f := &flow{recv: NewRecvWindow(size), send: SendWindow{Avail: int64(size)}}
	t.Repeat(rapid.StateMachineActions(f))
	// Nothing is lost: once all is consumed, at most half the window is held back.
	for len(f.frames) > 0 {
		f.Arrive(t)
	}
	for _, n := range f.unconsumed {
		f.recv.Consume(n)
	}
	if f.recv.Held != 0 || f.recv.Credit <= f.recv.Size/2 {
		t.Fatalf("after consuming all: %+v", f.recv)
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
