package rpc

import (
	"bytes"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// decoded returns what m is received as, once the memory it came in is used again.
func decoded[M proto.Message](t *testing.T, m, into M, sl *slab) M {
	t.Helper()
	enc, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	own := slices.Clip(bytes.Clone(enc)) // of no class, so that it stays here
	msg := message{data: own, own: &own}
	if err := msg.decode(&callCodec{}, into, sl); err != nil {
		t.Fatal(err)
	}
	clear(own)
	return into
}

func decodedBytes(t *testing.T, data []byte, sl *slab) []byte {
	t.Helper()
	return decoded(t, wrapperspb.Bytes(data), &wrapperspb.BytesValue{}, sl).Value
}

func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// TestSlab decodes messages of a stream: the first have memory of their own, those
// after it lie beside each other, and none is written to by what is appended to another.
func TestSlab(t *testing.T) {
	var sl slab
	data := bytes.Repeat([]byte("x"), 4<<10)
	for range slabSize/len(data) - 1 {
		decodedBytes(t, data, &sl)
		if sl.mem != nil {
			t.Fatal("a short stream has a slab")
		}
	}
	first := decodedBytes(t, data, &sl)
	second := decodedBytes(t, data, &sl)
	if addr(second)-addr(first) != uintptr(len(data)) {
		t.Error("the messages do not share memory")
	}
	_ = append(first, 'y')
	if !bytes.Equal(second, data) {
		t.Error("what was appended to a message is in the one after it")
	}
	for range 100 {
		decodedBytes(t, bytes.Repeat([]byte("z"), 5000), &sl)
	}
	if !bytes.Equal(first, data) || !bytes.Equal(second, data) {
		t.Error("other messages have changed the first two")
	}
	long := bytes.Repeat([]byte("l"), slabSize+1)
	if got := decodedBytes(t, long, &sl); !bytes.Equal(got, long) {
		t.Error("a message that no slab can hold is not what was sent")
	}
}

// TestSlabsAreBounded: with as much lent as there may be, messages have memory of
// their own, until some comes back.
func TestSlabsAreBounded(t *testing.T) {
	if !collect(func() bool { return lentBytes() == int64(waiting(&lent)) }) {
		t.Fatalf("%d bytes are lent before the test", lentBytes())
	}
	var sl slab
	data := bytes.Repeat([]byte("x"), 16<<10)
	var kept [][]byte
	for range 2 * lentMost / len(data) {
		kept = append(kept, decodedBytes(t, data, &sl))
	}
	if n := lentBytes(); n > lentMost || n < lentMost-2*slabSize {
		t.Errorf("%d bytes are lent, want up to %d", n, lentMost)
	}
	last := kept[len(kept)-1]
	kept = nil
	sl.mem = nil
	if !collect(func() bool { return waiting(&lent) > lentMost/2 }) {
		t.Errorf("%d bytes came back", waiting(&lent))
	}
	if !bytes.Equal(last, data) {
		t.Error("the last message was changed")
	}
	before := waiting(&lent)
	for range 2 * slabSize / len(data) {
		decodedBytes(t, data, &sl)
	}
	if n := waiting(&lent); n >= before {
		t.Errorf("%d bytes wait, and %d before there were more messages: they are not used again", n, before)
	}
}

func lentBytes() int64 {
	lent.mu.Lock()
	defer lent.mu.Unlock()
	return lent.bytes
}

// TestSlabMessagesStay keeps some messages of a stream, while others come and the
// collector runs, and looks whether they change.
func TestSlabMessagesStay(t *testing.T) {
	var sl slab
	kept := map[int][]byte{}
	for i := range 3000 {
		data := bytes.Repeat([]byte{byte(i)}, slabLeast+i*37%(20<<10))
		got := decodedBytes(t, data, &sl)
		if !bytes.Equal(got, data) {
			t.Fatalf("message %d is not what was sent", i)
		}
		if i%29 == 0 {
			kept[i] = got
		}
		if i%100 == 0 {
			runtime.GC()
			time.Sleep(time.Millisecond) // let the finalizers run
			for k, b := range kept {
				if bytes.Count(b, []byte{byte(k)}) != len(b) {
					t.Fatalf("message %d has changed by message %d", k, i)
				}
			}
		}
	}
}

// TestCallKeepsItsMemory: the bytes of a call's message lie where they were received,
// from 32 KiB on.
func TestCallKeepsItsMemory(t *testing.T) {
	for n, want := range map[int]bool{64 << 10: true, 20 << 10: false} {
		enc, err := proto.Marshal(wrapperspb.Bytes(make([]byte, n)))
		if err != nil {
			t.Fatal(err)
		}
		own := buffers.copyOf(enc)
		msg := message{data: *own, own: own}
		var got wrapperspb.BytesValue
		if err := msg.decode(&callCodec{}, &got, nil); err != nil {
			t.Fatal(err)
		}
		if in := addr(got.Value) > addr(*own) && addr(got.Value) < addr(*own)+uintptr(n); in != want {
			t.Errorf("%d bytes: where they were received %v, want %v", n, in, want)
		}
	}
}

// TestCallsAreLentLess: the messages of calls leave some of the lent memory to streams.
func TestCallsAreLentLess(t *testing.T) {
	var l lentMemory
	size := classSize(lentFrom)
	all := lendMany(&l, size, 2*lentCalls/size)
	if l.bytes > lentCalls || l.bytes <= lentCalls-int64(size) {
		t.Errorf("%d bytes are lent to calls, want up to %d", l.bytes, lentCalls)
	}
	if l.slab() == nil {
		t.Error("nothing is left for streams")
	}
	runtime.KeepAlive(all)
}

// TestWhatCountsForTheHeapFloor: messages whose memory is recycled do not count.
func TestWhatCountsForTheHeapFloor(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 4<<10)
	text := structpb.NewStringValue(string(data))
	tests := map[string]struct {
		receive func(sl *slab)
		counts  bool
	}{
		"bytes": {func(sl *slab) { decodedBytes(t, data, sl) }, false},
		"text":  {func(sl *slab) { decoded(t, text, &structpb.Value{}, sl) }, true},
		"BytesMessage": {func(sl *slab) {
			own := buffers.copyOf(data)
			msg := message{data: *own, own: own}
			var b blob
			if err := msg.decode(&callCodec{}, &b, sl); err != nil {
				t.Fatal(err)
			}
			b.release()
		}, false},
		"codec of the application's": {func(sl *slab) {
			own := buffers.copyOf([]byte("\n\x01x" + string(make([]byte, heapFloorLeast))))
			msg := message{data: *own, own: own}
			// What it decodes to does not matter here.
			_ = msg.decode(&callCodec{v2: codec{}}, &wrapperspb.BytesValue{}, sl)
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := floor.bytes.Load()
			tt.receive(&slab{})
			if got := floor.bytes.Load() != before; got != tt.counts {
				t.Errorf("counts %v, want %v", got, tt.counts)
			}
			before = floor.bytes.Load()
			tt.receive(nil)
			if floor.bytes.Load() != before {
				t.Error("the message of a call counts")
			}
		})
	}
}
