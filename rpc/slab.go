package rpc

const (
	// slabSize is how much memory is lent at once. It is of whole pages.
	slabSize = 64 << 10
	// slabLeast is the shortest message that goes to a slab.
	slabLeast = 1 << 10
)

// A slab is lent memory (lent.go) that the bytes fields of a stream's messages share, one
// after the other. For the heap it is one object, and what comes back need not be
// collected, nor be had from the system again. What a program keeps of one message keeps
// the slab, but no more than lentMost is lent. Beyond that, and at the beginning of a
// stream, each message has memory of its own.
type slab struct {
	mem  []byte // its length is what is in use
	past int    // bytes that had memory of their own since slabs were tried
}

// copyOf returns a copy of b.
func (sl *slab) copyOf(b []byte) []byte {
	if len(b) > cap(sl.mem)-len(sl.mem) && !sl.renew(len(b)) {
		return append([]byte(nil), b...)
	}
	at := len(sl.mem)
	sl.mem = append(sl.mem, b...)
	return sl.mem[at:]
}

// renew makes room for n bytes, or counts them as past.
func (sl *slab) renew(n int) bool {
	sl.past += n
	if sl.past < slabSize || n > slabSize {
		return false
	}
	mem := lent.slab()
	if mem == nil {
		sl.past = 0
		return false
	}
	sl.mem = (*mem)[:0]
	return true
}
