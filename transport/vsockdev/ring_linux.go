package vsockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// A ring is the device's end of a split virtqueue (VIRTIO 1.2, section 2.7) in
// the guest's memory. It trusts nothing in there: each number is read once,
// then checked. The first error breaks the ring for good.
//
// Chains are taken in order and given back in order, so that the index of the
// used ring alone says where another device would have to go on.
type ring struct {
	mem               *memory
	desc, avail, used []byte
	num               uint16
	eventIdx          bool // VIRTIO_F_EVENT_IDX
	indirect          bool // VIRTIO_F_INDIRECT_DESC

	taken    uint16 // index in the available ring of the next chain
	seen     uint16 // the driver's index, as it was last read
	returned uint16 // index in the used ring of the next entry
	shown    uint16 // that index, as the driver can read it
	signaled uint16 // that index, when it was last decided whether to interrupt
	flags    uint16 // of the used ring
}

const (
	maxRingSize = 1024

	descSize     = 16
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	availNoInterrupt = 1
	usedNoNotify     = 1
)

// maxChain bounds the descriptors of a chain, with those of its indirect table.
const maxChain = 1024

// A chain is a buffer of the driver's: what the device may read, and then
// what it may write. It is valid until it is given back.
type chain struct {
	head            uint16
	read, write     [][]byte
	readLen, writeN int
}

// newRing returns the ring whose parts are at addresses of the front end's.
// base is the index of the first chain to take.
func newRing(mem *memory, num uint32, desc, avail, used uint64, base uint16, eventIdx, indirect bool) (*ring, error) {
	if num == 0 || num > maxRingSize || num&(num-1) != 0 {
		return nil, fmt.Errorf("ring of %d entries", num)
	}
	// Linux lays all parts out so. The specification wants 2 for avail only,
	// which atomic loads of its flags and index do not bear.
	if desc%16 != 0 || avail%4 != 0 || used%4 != 0 {
		return nil, fmt.Errorf("ring not aligned: %#x, %#x, %#x", desc, avail, used)
	}
	r := &ring{mem: mem, num: uint16(num), eventIdx: eventIdx, indirect: indirect, taken: base, seen: base}
	n := uint64(num)
	var err error
	for _, p := range []struct {
		part       *[]byte
		addr, size uint64
	}{{&r.desc, desc, descSize * n}, {&r.avail, avail, 6 + 2*n}, {&r.used, used, 6 + 8*n}} {
		if *p.part, err = mem.atUser(p.addr, p.size); err != nil {
			return nil, fmt.Errorf("ring at %#x: %w", p.addr, err)
		}
	}
	_, r.returned = r.load(r.used)
	r.shown, r.signaled = r.returned, r.returned
	return r, nil
}

// load reads the flags and the index of r.avail or r.used.
func (r *ring) load(part []byte) (flags, index uint16) {
	v := atomic.LoadUint32((*uint32)(unsafe.Pointer(&part[0])))
	return uint16(v), uint16(v >> 16)
}

// storeUsed writes the flags and the index of the used ring.
func (r *ring) storeUsed(flags uint16) {
	r.flags = flags
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&r.used[0])), uint32(flags)|uint32(r.returned)<<16)
	r.shown = r.returned
}

// fence keeps the reads that follow behind the writes before. Go's atomic
// operations are sequentially consistent, plain ones between them stay there.
func fence() {
	var word uint32
	p := &word
	atomic.StoreUint32(p, 1)
	_ = atomic.LoadUint32(p)
}

var errChain = errors.New("descriptor chain")

// take takes the next chain. It reports false if the driver has made none
// available. c's slices are used again.
func (r *ring) take(c *chain) (bool, error) {
	if r.taken == r.seen {
		if _, r.seen = r.load(r.avail); r.taken == r.seen {
			return false, nil
		}
		if n := r.seen - r.taken; n > r.num {
			return false, fmt.Errorf("%d chains in a ring of %d", n, r.num)
		}
	}
	at := 4 + 2*int(r.taken&(r.num-1))
	c.head = binary.LittleEndian.Uint16(r.avail[at:])
	c.read, c.write, c.readLen, c.writeN = c.read[:0], c.write[:0], 0, 0
	if err := r.walk(c); err != nil {
		return false, err
	}
	r.taken++
	return true, nil
}

// untake puts the last n chains back that were taken.
func (r *ring) untake(n int) { r.taken -= uint16(n) }

// A descriptor is one entry of a table, copied.
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

func decodeDescriptor(b []byte) descriptor {
	le := binary.LittleEndian
	return descriptor{le.Uint64(b), le.Uint32(b[8:]), le.Uint16(b[12:]), le.Uint16(b[14:])}
}

// walk follows the chain from c.head.
func (r *ring) walk(c *chain) error {
	for i, n := c.head, 0; ; n++ {
		if i >= r.num || n >= int(r.num) {
			return fmt.Errorf("%w: out of its table or in a loop", errChain)
		}
		d := decodeDescriptor(r.desc[descSize*int(i):])
		if d.flags&descIndirect != 0 {
			if n > 0 || d.flags&descNext != 0 {
				return fmt.Errorf("%w: indirect among others", errChain)
			}
			return r.walkIndirect(c, d)
		}
		if err := r.add(c, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		i = d.next
	}
}

// walkIndirect follows a chain in a table of its own.
func (r *ring) walkIndirect(c *chain, table descriptor) error {
	count := int(table.len / descSize)
	if !r.indirect || table.len%descSize != 0 || count == 0 || count > maxChain {
		return fmt.Errorf("%w: indirect table of %d bytes", errChain, table.len)
	}
	var buf [descSize]byte
	for i, n := 0, 0; ; n++ {
		if i >= count || n >= count {
			return fmt.Errorf("%w: out of its indirect table or in a loop", errChain)
		}
		b, err := r.mem.at(table.addr+uint64(i)*descSize, descSize)
		if err != nil || len(b) < descSize {
			return fmt.Errorf("%w: indirect table at %#x: %w", errChain, table.addr, errOutside)
		}
		copy(buf[:], b)
		d := decodeDescriptor(buf[:])
		if d.flags&descIndirect != 0 {
			return fmt.Errorf("%w: indirect in an indirect table", errChain)
		}
		if err := r.add(c, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		i = int(d.next)
	}
}

// add adds the memory of a descriptor to a chain.
func (r *ring) add(c *chain, d descriptor) (err error) {
	switch {
	case d.flags&descWrite != 0:
		c.write, err = r.mem.appendSlices(c.write, d.addr, uint64(d.len))
		c.writeN += int(d.len)
	case len(c.write) > 0:
		err = errors.New("to be read, behind one to be written")
	default:
		c.read, err = r.mem.appendSlices(c.read, d.addr, uint64(d.len))
		c.readLen += int(d.len)
	}
	if err != nil {
		return fmt.Errorf("%w: %d bytes at %#x: %w", errChain, d.len, d.addr, err)
	}
	return nil
}

// give gives a chain back, n bytes of which were written. The driver sees it
// after show.
func (r *ring) give(head uint16, n int) {
	at := 4 + 8*int(r.returned&(r.num-1))
	binary.LittleEndian.PutUint32(r.used[at:], uint32(head))
	binary.LittleEndian.PutUint32(r.used[at+4:], uint32(n))
	r.returned++
}

// show lets the driver see what was given back, and returns how much of that it
// was not yet asked about whether it wants an interrupt.
func (r *ring) show() int {
	if r.shown != r.returned {
		r.storeUsed(r.flags)
	}
	return int(r.returned - r.signaled)
}

// wantsInterrupt reports whether the driver wants an interrupt for what it was
// shown.
func (r *ring) wantsInterrupt() bool {
	if r.signaled == r.returned {
		return false
	}
	fence()
	before := r.signaled
	r.signaled = r.returned
	if !r.eventIdx {
		flags, _ := r.load(r.avail)
		return flags&availNoInterrupt == 0
	}
	event := binary.LittleEndian.Uint16(r.avail[4+2*int(r.num):])
	return r.returned-event-1 < r.returned-before
}

// wantKicks asks the driver to say when it adds chains, and reports whether it
// has done so meanwhile.
func (r *ring) wantKicks() (more bool) {
	if r.eventIdx {
		binary.LittleEndian.PutUint16(r.used[4+8*int(r.num):], r.taken)
		fence()
	} else {
		r.storeUsed(0)
	}
	_, r.seen = r.load(r.avail)
	return r.seen != r.taken
}

// refuseKicks tells the driver that it need not say when it adds chains. With
// eventIdx that is so by itself until the next wantKicks.
func (r *ring) refuseKicks() {
	if !r.eventIdx {
		r.storeUsed(usedNoNotify)
	}
}

// gather copies the first len(dst) bytes of src. It reports false if there are
// fewer.
func gather(dst []byte, src [][]byte) bool {
	for _, s := range src {
		n := copy(dst, s)
		if dst = dst[n:]; len(dst) == 0 {
			return true
		}
	}
	return len(dst) == 0
}

// scatter copies src to the beginning of dst, which has room for it.
func scatter(dst [][]byte, src []byte) {
	for _, d := range dst {
		n := copy(d, src)
		if src = src[n:]; len(src) == 0 {
			return
		}
	}
}

// window appends to s the n bytes of bufs behind the first skip, or as many as
// there are.
func window(s [][]byte, bufs [][]byte, skip, n int) [][]byte {
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:]
		skip = 0
		if len(b) >= n {
			if n > 0 {
				s = append(s, b[:n])
			}
			return s
		}
		s = append(s, b)
		n -= len(b)
	}
	return s
}
