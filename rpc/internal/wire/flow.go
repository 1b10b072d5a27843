package wire

// Flow control is arithmetic on credits, in bytes: no locks and no I/O here.
//
// A frame that carries a message, or a piece of one, costs its message bytes and
// FrameCost, on its stream and on its connection. A receiver gives credit back
// when it has consumed, or thrown away, what the frame brought. So what a peer
// can make a side hold is at most the window, however small its frames are.

const (
	// FrameCost is what every frame with a message costs beside its bytes: what
	// the receiver needs to keep track of it.
	FrameCost = 64
	// InitialStreamWindow and InitialConnWindow hold until a HELLO says more.
	InitialStreamWindow = 256 << 10
	InitialConnWindow   = 1 << 20
	// LeastCredit is how much credit is worth a frame of its own.
	LeastCredit = 1 << 10
	// MaxWindow bounds every window.
	MaxWindow = 1<<31 - 1
)

// Cost is what a frame of n message bytes costs.
func Cost(n int) int64 { return int64(n) + FrameCost }

// SendWindow is what may be sent. The zero value allows nothing.
type SendWindow struct{ Avail int64 }

// Add gives n more bytes. It reports false, and changes nothing, if the window
// would pass MaxWindow.
func (w *SendWindow) Add(n uint32) bool {
	if w.Avail+int64(n) > MaxWindow {
		return false
	}
	w.Avail += int64(n)
	return true
}

// Fit returns how many of n message bytes may be sent now in one frame, and
// whether a frame may be sent at all. A frame shorter than both n and least is
// not worth sending: then it waits.
func (w *SendWindow) Fit(n, least int) (int, bool) {
	room := w.Avail - FrameCost
	if room >= int64(n) {
		return n, true
	}
	if room < int64(least) || room <= 0 {
		return 0, false
	}
	return int(room), true
}

// Take uses up the credit for a frame of n message bytes, which fit allowed.
func (w *SendWindow) Take(n int) { w.Avail -= int64(n) + FrameCost }

// RecvWindow is what the peer may send. credit + held + freed is always size.
type RecvWindow struct {
	Size   int64 // the whole window
	Credit int64 // what the peer may still send
	Held   int64 // received and not consumed
	Freed  int64 // consumed and not yet given back
}

func NewRecvWindow(size int) RecvWindow { return RecvWindow{Size: int64(size), Credit: int64(size)} }

// Receive accounts for a frame of n message bytes. It reports false, and changes
// nothing, if the peer had no credit for it.
func (w *RecvWindow) Receive(n int) bool {
	cost := int64(n) + FrameCost
	if cost > w.Credit {
		return false
	}
	w.Credit -= cost
	w.Held += cost
	return true
}

// Consume accounts for cost bytes, as counted by receive, that are not held any
// longer, and returns how many bytes of credit to give back now: none until it is
// worth a frame.
func (w *RecvWindow) Consume(cost int64) uint32 {
	w.Held -= cost
	w.Freed += cost
	return w.Due()
}

// Due returns how many bytes of credit to give back now: none until that is half
// of what is not held, and worth a frame. What streams hold whose receivers have
// stopped is not coming back, so the others have to do with the rest.
func (w *RecvWindow) Due() uint32 {
	if w.Freed < max(LeastCredit, (w.Size-w.Held)/2) {
		return 0
	}
	return w.giveBack()
}

// giveBack returns all credit that can be given back now.
func (w *RecvWindow) giveBack() uint32 {
	n := w.Freed
	w.Freed = 0
	w.Credit += n
	return uint32(n)
}

// Early returns what credit can be given back before it is due, if it is worth a
// frame.
func (w *RecvWindow) Early() uint32 {
	if w.Freed < LeastCredit {
		return 0
	}
	return w.giveBack()
}
