package process

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
)

const (
	// smallChunk is what a stream gets first, and always: most processes write
	// little, and a stream that is refused more still makes progress.
	smallChunk = 4 << 10
	// largeChunk is what a stream gets that fills what it has; the capacity of
	// a pipe.
	largeChunk = 64 << 10
)

// chunk is a piece of a ring's memory. Bytes once written do not change until
// the chunk is freed, so that a reader which holds it may use them without the
// session's lock.
type chunk struct {
	off  uint64 // the stream's offset of buf[0]
	n    int    // how much is written
	refs int    // of the ring, of the writer, of each reader; under the session's lock
	buf  []byte
}

func (c *chunk) end() uint64 { return c.off + uint64(c.n) }

// memory is what all rings of a server share.
type memory struct {
	pool *charge.Pool
	peak atomic.Int64

	small, large sync.Pool // of *[]byte
}

func newMemory(limit uint64) *memory {
	return &memory{pool: charge.NewPool(int64(limit))}
}

// purse is the memory as one caller has it.
type purse struct {
	*memory
	account charge.Account
}

// of returns the memory for the rings of a caller.
func (m *memory) of(a charge.Account) purse { return purse{m, a} }

// scarce reports whether more than half of the memory is in use.
func (m *memory) scarce() bool { return m.pool.Used() > m.pool.Limit()/2 }

// take returns a chunk's memory, or nil if that is beyond the caller's share and
// not forced.
func (p purse) take(size int, force bool) []byte {
	if force {
		p.pool.Force(p.account, int64(size))
	} else if p.pool.Take(p.account, int64(size)) != nil {
		return nil
	}
	for used := p.pool.Used(); ; {
		peak := p.peak.Load()
		if used <= peak || p.peak.CompareAndSwap(peak, used) {
			break
		}
	}
	pool := &p.small
	if size == largeChunk {
		pool = &p.large
	}
	if b, ok := pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, size)
}

func (p purse) give(b []byte) {
	p.pool.Give(p.account, int64(len(b)))
	if len(b) == largeChunk {
		p.large.Put(&b)
	} else {
		p.small.Put(&b)
	}
}

// ring keeps the last bytes of a stream, each at its absolute offset. What may
// be dropped before it is full is its caller's decision. It is not safe for
// concurrent use.
type ring struct {
	mem        purse
	max        uint64 // how many bytes it holds at most
	first, end uint64 // it holds the bytes from first to before end
	chunks     []*chunk
	writing    *chunk // the last chunk, between reserve and commit
	reserved   int
	large      bool // the stream filled what it had
}

// reserve returns memory for the next bytes, at most limit, or nil if there is
// none and it is not forced. The caller writes into it, without the session's
// lock if it likes, and calls commit.
func (r *ring) reserve(limit uint64, force bool) []byte {
	if limit == 0 || r.writing != nil {
		return nil
	}
	last := r.last()
	// A read into the last bit of a large chunk is a system call for little.
	if last == nil || r.large && len(last.buf)-last.n < len(last.buf)/8 {
		if c := r.grow(force); c != nil {
			last = c
		}
	}
	if last == nil {
		return nil
	}
	last.refs++
	r.writing = last
	space := last.buf[last.n:]
	if uint64(len(space)) > limit {
		space = space[:limit]
	}
	r.reserved = len(space)
	return space
}

// last returns the last chunk if it has space, or nil.
func (r *ring) last() *chunk {
	if n := len(r.chunks); n > 0 && r.chunks[n-1].n < len(r.chunks[n-1].buf) {
		return r.chunks[n-1]
	}
	return nil
}

// grow adds an empty chunk, or returns nil.
func (r *ring) grow(force bool) *chunk {
	var buf []byte
	if r.large {
		buf = r.mem.take(largeChunk, false)
	}
	if buf == nil {
		buf = r.mem.take(smallChunk, force || len(r.chunks) == 0)
	}
	if buf == nil {
		return nil
	}
	c := &chunk{off: r.end, refs: 1, buf: buf}
	r.chunks = append(r.chunks, c)
	return c
}

// needsMemory reports whether reserve would return nil for want of memory.
func (r *ring) needsMemory() bool {
	return len(r.chunks) > 0 && r.last() == nil && !r.mem.pool.Fits(r.mem.account, smallChunk)
}

// commit says that the first n bytes of what reserve returned are written, and
// drops what is more than the ring may hold, the oldest first.
func (r *ring) commit(n int) {
	c := r.writing
	r.writing = nil
	switch {
	case n == 0:
	case n == r.reserved && n >= smallChunk/2:
		r.large = true
	case n < smallChunk/2:
		r.large = false
	}
	c.n += n
	r.end += uint64(n)
	r.unpin(c)
	if r.end-r.first > r.max {
		r.first = r.end - r.max
	}
	r.trim()
}

// dropTo drops all bytes before off, at most all.
func (r *ring) dropTo(off uint64) {
	r.first = max(r.first, min(off, r.end))
	r.trim()
}

// dropChunk drops the oldest chunk's bytes, to make room where memory is short.
// It reports false if there is nothing to drop.
func (r *ring) dropChunk() bool {
	if len(r.chunks) == 0 || r.first == r.end {
		return false
	}
	r.dropTo(r.chunks[0].end())
	return true
}

// trim frees the chunks that hold nothing any more.
func (r *ring) trim() {
	n := 0
	for n < len(r.chunks) && r.chunks[n].end() <= r.first && r.chunks[n] != r.writing {
		r.unpin(r.chunks[n])
		n++
	}
	if n > 0 {
		r.chunks = slices.Delete(r.chunks, 0, n)
	}
}

// at returns up to limit bytes from off on, as many as lie in one chunk, and
// that chunk, pinned. The caller unpins it. off is within the ring.
func (r *ring) at(off uint64, limit uint64) ([]byte, *chunk) {
	i := sort.Search(len(r.chunks), func(i int) bool { return off < r.chunks[i].end() })
	if i == len(r.chunks) {
		return nil, nil
	}
	c := r.chunks[i]
	data := c.buf[off-c.off : c.n]
	if uint64(len(data)) > limit {
		data = data[:limit]
	}
	c.refs++
	return data, c
}

// unpin gives up one hold of a chunk.
func (r *ring) unpin(c *chunk) {
	if c.refs--; c.refs == 0 {
		r.mem.give(c.buf)
		c.buf = nil
	}
}
