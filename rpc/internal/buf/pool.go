package buf

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// A pool recycles buffers of up to 4 MiB. Its classes are powers of two and a little
// more, because a message of 4 KiB is a few bytes longer on the wire. Buffers that nobody
// uses for two garbage collections are let go. The zero value is ready to use.
type pool struct{ classes [15]sync.Pool }

const (
	minClass   = 8 // 256 bytes
	classExtra = 1 << 10
)

// Pool is the pool of the process.
var Pool pool

var _ mem.BufferPool = (*pool)(nil)

func classSize(i int) int { return 1<<(minClass+i) + classExtra }

// classOf returns the smallest class that holds n bytes, or -1.
func classOf(n int) int {
	if n <= classSize(0) {
		return 0
	}
	i := bits.Len(uint(n-classExtra-1)) - minClass
	if i >= len(Pool.classes) {
		return -1
	}
	return i
}

// Get returns a buffer of n bytes whose contents are arbitrary. It implements
// mem.BufferPool.
func (p *pool) Get(n int) *[]byte {
	i := classOf(n)
	if i < 0 {
		b := make([]byte, n)
		return &b
	}
	b, _ := p.classes[i].Get().(*[]byte)
	if b != nil {
		*b = (*b)[:n]
		return b
	}
	mem := make([]byte, n, classSize(i))
	return &mem
}

// Copy returns a buffer with a copy of b.
func (p *pool) Copy(b []byte) *[]byte {
	own := p.Get(len(b))
	copy(*own, b)
	return own
}

// Put takes b back, whose owner must not use it any more. A b that Get has not returned,
// and nil, do nothing. It implements mem.BufferPool.
func (p *pool) Put(b *[]byte) {
	if b == nil {
		return
	}
	if i := classOf(cap(*b)); i >= 0 && cap(*b) == classSize(i) {
		p.classes[i].Put(b)
	}
}
