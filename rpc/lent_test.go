package rpc

import (
	"bytes"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// waiting returns how many bytes have come back to l.
func waiting(l *lentMemory) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, f := range l.free {
		for _, b := range f {
			n += cap(*b)
		}
	}
	return n
}

// collect runs the garbage collector until done, or for a second at most.
func collect(done func() bool) bool {
	for range 100 {
		runtime.GC()
		if done() {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// TestLentMemoryComesBack: what a message has kept is received into again once the
// message cannot be reached, and not before.
func TestLentMemoryComesBack(t *testing.T) {
	var l lentMemory
	size := classSize(lentFrom)
	b := make([]byte, size)
	at := uintptr(unsafe.Pointer(&b[0]))
	tail := b[size-10:] // as a program that keeps a part
	l.lend(&b)
	b = nil
	if collect(func() bool { return waiting(&l) > 0 }) {
		t.Fatal("came back while a part could be reached")
	}
	runtime.KeepAlive(tail)
	tail = nil
	if !collect(func() bool { return waiting(&l) == size }) {
		t.Fatal("did not come back")
	}
	got := l.take(lentFrom)
	if got == nil || len(*got) != size || cap(*got) != size || uintptr(unsafe.Pointer(&(*got)[0])) != at {
		t.Error("not the memory that came back")
	}
	if l.bytes != 0 || l.take(lentFrom) != nil {
		t.Errorf("%d bytes are lent, after all of it was taken", l.bytes)
	}
}

// lendMany lends n pieces, and returns them.
func lendMany(l *lentMemory, size, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = make([]byte, size)
		b := all[i]
		l.lend(&b)
	}
	return all
}

func TestLentMemoryIsBounded(t *testing.T) {
	var l lentMemory
	size := classSize(classOf(aliasFrom))
	all := lendMany(&l, size, 2*lentMost/size)
	if l.bytes > lentMost || l.bytes <= lentMost-int64(size) {
		t.Errorf("%d bytes are lent, want up to %d", l.bytes, lentMost)
	}
	odd := make([]byte, size+1)
	before := l.bytes
	l.bytes = 0
	l.lend(&odd)
	if l.bytes != 0 {
		t.Error("memory of no class was lent")
	}
	l.bytes = before
	clear(all)
	if !collect(func() bool { return int64(waiting(&l)) == before }) {
		t.Errorf("%d bytes came back, want %d", waiting(&l), before)
	}
}

func TestLentMemoryMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(math.MaxInt64 - 1)
	defer debug.SetMemoryLimit(before)
	var l lentMemory
	b := make([]byte, classSize(lentFrom))
	l.lend(&b)
	if l.bytes != 0 {
		t.Error("lent, where the program has a memory limit")
	}
}

func TestLentMemoryIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lentMemory
		back := func() {
			l.mu.Lock()
			l.bytes += int64(classSize(lentFrom))
			l.mu.Unlock()
			l.comeBack(lentFrom, make([]byte, classSize(lentFrom)))
		}
		for range 3 {
			back()
		}
		for range 10 { // it is used
			time.Sleep(lentTime / 2)
			if l.take(lentFrom) == nil {
				t.Fatal("let go while it was used")
			}
			back()
		}
		time.Sleep(3 * lentTime)
		if n := waiting(&l); n != 0 || l.bytes != 0 {
			t.Errorf("%d bytes wait, and %d count, long after the last use", n, l.bytes)
		}
		back()
		time.Sleep(2 * lentTime)
		if waiting(&l) != 0 {
			t.Error("not let go the second time")
		}
	})
}

// TestKeptMessagesStay receives long messages, keeps some of them, and looks
// whether those that come later change them.
func TestKeptMessagesStay(t *testing.T) {
	var kept [][]byte
	for i := range 64 {
		data := bytes.Repeat([]byte{byte(i)}, aliasFrom+i*5000)
		enc, err := proto.Marshal(wrapperspb.Bytes(data))
		if err != nil {
			t.Fatal(err)
		}
		own := buffers.Get(len(enc))
		copy(*own, enc)
		m := message{data: *own, own: own}
		var got wrapperspb.BytesValue
		if err := m.decode(&callCodec{}, &got, nil); err != nil || !bytes.Equal(got.Value, data) {
			t.Fatalf("message %d is not what was sent: %v", i, err)
		}
		if i%5 == 0 {
			kept = append(kept, got.Value[i:])
		}
		if i%7 == 0 {
			runtime.GC()
			time.Sleep(time.Millisecond) // let the finalizers run
		}
		for k, b := range kept {
			if bytes.Count(b, []byte{byte(5 * k)}) != len(b) {
				t.Fatalf("message %d has changed message %d", i, 5*k)
			}
		}
	}
}
