package rpc

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	// lentMost is how many bytes are with the application, or wait to be used again.
	lentMost = 8 << 20
	// lentCalls is how many of them there may be for calls' messages of less than
	// aliasFrom to be lent more: what goes round then stays in the CPU's cache.
	lentCalls = 3 << 20
	// lentTime is how long what came back waits to be used again.
	lentTime = time.Second
)

// lentFrom is the first class of buffers that are lent.
var lentFrom = classOf(aliasCall)

// slabs is the class of slabs, which are not received into.
const slabs = len(bufferPool{}.classes)

// lentMemory recycles the memory that messages of the application's keep a slice of
// (message.unmarshal). Once the garbage collector finds that the program cannot reach
// it any more, it comes back to be received into again, instead of going to the
// heap: there it would be cleared, and be given to the system and had back page by
// page, which in a virtual machine takes longer than to receive the message. What
// is more than lentMost goes to the heap. A program with a memory limit is left
// alone, as by heapFloor.
type lentMemory struct {
	waiting atomic.Int32 // how many are in free

	mu    sync.Mutex
	bytes int64
	free  [slabs + 1][]*[]byte
	armed bool // look is going to be called
	used  bool // something was taken since it was called
}

// lent is that of the process.
var lent lentMemory

// lend says that b belongs to the application now.
func (l *lentMemory) lend(b *[]byte) {
	n := cap(*b)
	i := classOf(n)
	most := int64(lentMost)
	if n < aliasFrom {
		most = lentCalls
	}
	if i >= lentFrom && n == classSize(i) && l.reserve(n, most) {
		l.watch(i, *b)
	}
}

// slab returns a slab that is lent already, or nil if too much is.
func (l *lentMemory) slab() *[]byte {
	b := l.take(slabs)
	if !l.reserve(slabSize, lentMost) {
		return nil
	}
	if b == nil {
		mem := newBuffer(slabSize)
		b = &mem
	}
	l.watch(slabs, *b)
	return b
}

// reserve counts n bytes more, unless that makes more than most.
func (l *lentMemory) reserve(n int, most int64) bool {
	if memoryIsLimited() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes+int64(n) > most {
		return false
	}
	l.bytes += int64(n)
	return true
}

// watch sees to it that b comes back.
func (l *lentMemory) watch(class int, b []byte) {
	n := cap(b)
	// A finalizer may bring its object back to life. It is set for the beginning of
	// an allocation, which is what the runtime asks for; the collector knows slices
	// of any part of it as references to the whole.
	runtime.SetFinalizer(unsafe.SliceData(b), func(p *byte) { l.comeBack(class, unsafe.Slice(p, n)) })
}

func (l *lentMemory) comeBack(class int, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free[class] = append(l.free[class], &b)
	l.waiting.Add(1)
	if !l.armed {
		l.armed = true
		time.AfterFunc(lentTime, l.look)
	}
}

// take returns a buffer of the class that has come back, or nil.
func (l *lentMemory) take(class int) *[]byte {
	if l.waiting.Load() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.free[class]
	k := len(f) - 1
	if k < 0 {
		return nil
	}
	b := f[k]
	f[k] = nil
	l.free[class] = f[:k]
	l.waiting.Add(-1)
	l.bytes -= int64(cap(*b))
	l.used = true
	return b
}

// look lets go of what has come back, if nothing of it was used for lentTime.
func (l *lentMemory) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used {
		l.used = false
		time.AfterFunc(lentTime, l.look)
		return
	}
	l.armed = false
	for i, f := range l.free {
		for _, b := range f {
			l.bytes -= int64(cap(*b))
		}
		l.free[i] = nil
		l.waiting.Add(-int32(len(f)))
	}
}
