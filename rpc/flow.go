package rpc

// Flow control is arithmetic on credits, in bytes: no locks and no I/O here.
//
// A frame that carries a message, or a piece of one, costs its message bytes and
// frameCost, on its stream and on its connection. A receiver gives credit back
// when it has consumed, or thrown away, what the frame brought. So what a peer
// can make a side hold is at most the window, however small its frames are.

const (
	// frameCost is what every frame with a message costs beside its bytes: what
	// the receiver needs to keep track of it.
	frameCost = 64
	// initialStreamWindow and initialConnWindow hold until a HELLO says more.
	initialStreamWindow = 256 << 10
	initialConnWindow   = 1 << 20
	// maxWindow bounds every window.
	maxWindow = 1<<31 - 1
)

// sendWindow is what may be sent. The zero value allows nothing.
type sendWindow struct{ avail int64 }

// add gives n more bytes. It reports false, and changes nothing, if the window
// would pass maxWindow.
func (w *sendWindow) add(n uint32) bool {
	if w.avail+int64(n) > maxWindow {
		return false
	}
	w.avail += int64(n)
	return true
}

// fit returns how many of n message bytes may be sent now in one frame, and
// whether a frame may be sent at all. A frame shorter than both n and least is
// not worth sending: then it waits.
func (w *sendWindow) fit(n, least int) (int, bool) {
	room := w.avail - frameCost
	if room >= int64(n) {
		return n, true
	}
	if room < int64(least) || room <= 0 {
		return 0, false
	}
	return int(room), true
}

// take uses up the credit for a frame of n message bytes, which fit allowed.
func (w *sendWindow) take(n int) { w.avail -= int64(n) + frameCost }

// recvWindow is what the peer may send. credit + held + freed is always size.
type recvWindow struct {
	size   int64 // the whole window
	credit int64 // what the peer may still send
	held   int64 // received and not consumed
	freed  int64 // consumed and not yet given back
}

func newRecvWindow(size int) recvWindow { return recvWindow{size: int64(size), credit: int64(size)} }

// receive accounts for a frame of n message bytes. It reports false, and changes
// nothing, if the peer had no credit for it.
func (w *recvWindow) receive(n int) bool {
	cost := int64(n) + frameCost
	if cost > w.credit {
		return false
	}
	w.credit -= cost
	w.held += cost
	return true
}

// consume accounts for cost bytes, as counted by receive, that are not held any
// longer, and returns how many bytes of credit to give back now: none until it is
// worth a frame.
func (w *recvWindow) consume(cost int64) uint32 {
	w.held -= cost
	w.freed += cost
	return w.due()
}

// due returns how many bytes of credit to give back now: none until that is half
// of what is not held, and worth a frame. What streams hold whose receivers have
// stopped is not coming back, so the others have to do with the rest.
func (w *recvWindow) due() uint32 {
	if w.freed < max(leastCredit, (w.size-w.held)/2) {
		return 0
	}
	return w.giveBack()
}

// giveBack returns all credit that can be given back now.
func (w *recvWindow) giveBack() uint32 {
	n := w.freed
	w.freed = 0
	w.credit += n
	return uint32(n)
}
