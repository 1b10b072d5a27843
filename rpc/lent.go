package rpc

import (
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
	"unsafe"
)

const (
	// lentMost is how many bytes are with the application, or wait to be used again.
	lentMost = 8 << 20
	// lentTime is how long what came back waits to be used again.
	lentTime = time.Second
)

// lentFrom is the first class of buffers that are lent.
var lentFrom = classOf(aliasFrom)

// lentMemory recycles the memory that messages of the application's keep a slice of
// (unmarshalKeeping). Once the garbage collector finds that the program cannot reach
// it any more, it comes back to be received into again, instead of going to the
// heap: there it would be cleared, and be given to the system and had back page by
// page, which in a virtual machine takes longer than to receive the message. What
// is more than lentMost goes to the heap. A program with a memory limit is left
// alone, as by heapFloor.
type lentMemory struct {
	mu    sync.Mutex
	bytes int64
	free  [len(bufferPool{}.classes)][]*[]byte
	armed bool // look is going to be called
	used  bool // something was taken since it was called
}

// lent is that of the process.
var lent lentMemory

// lend says that b belongs to the application now.
func (l *lentMemory) lend(b *[]byte) {
	n := cap(*b)
	i := classOf(n)
	if i < lentFrom || n != classSize(i) || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes+int64(n) > lentMost {
		return
	}
	l.bytes += int64(n)
	// A finalizer may bring its object back to life. It is set for the beginning of
	// an allocation, which is what the runtime asks for; the collector knows slices
	// of any part of it as references to the whole.
	runtime.SetFinalizer(unsafe.SliceData(*b), func(p *byte) { l.comeBack(i, unsafe.Slice(p, n)) })
}

func (l *lentMemory) comeBack(class int, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free[class] = append(l.free[class], &b)
	if !l.armed {
		l.armed = true
		time.AfterFunc(lentTime, l.look)
	}
}

// take returns a buffer of the class that has come back, or nil.
func (l *lentMemory) take(class int) *[]byte {
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
		l.bytes -= int64(len(f) * classSize(i))
		l.free[i] = nil
	}
}
