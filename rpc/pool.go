package rpc

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// bufferPool recycles the memory of messages, up to 4 MiB. Its classes are powers of two and a
// little more, because a message of 4 KiB is a few bytes longer on the wire.
// What is not used for two garbage collections is let go.
type bufferPool struct{ classes [15]sync.Pool }

const (
	minClass   = 8 // 256 bytes
	classExtra = 1 << 10
)

var (
	buffers bufferPool
	_       mem.BufferPool = (*bufferPool)(nil)
)

func classSize(i int) int { return 1<<(minClass+i) + classExtra }

// classOf returns the smallest class that holds n bytes, or -1.
func classOf(n int) int {
	if n <= classSize(0) {
		return 0
	}
	i := bits.Len(uint(n-classExtra-1)) - minClass
	if i >= len(buffers.classes) {
		return -1
	}
	return i
}

// Get implements mem.BufferPool. The contents are arbitrary.
func (p *bufferPool) Get(n int) *[]byte {
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

// copyOf returns a copy of b.
func (p *bufferPool) copyOf(b []byte) *[]byte {
	own := p.Get(len(b))
	copy(*own, b)
	return own
}

// Put implements mem.BufferPool.
func (p *bufferPool) Put(b *[]byte) {
	if b == nil {
		return
	}
	if i := classOf(cap(*b)); i >= 0 && cap(*b) == classSize(i) {
		p.classes[i].Put(b)
	}
}
