package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// loanMessage is message i of a test, whose length and contents i decides.
func loanMessage(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 1))
	n := rng.IntN(8 << 10)
	switch i % 50 {
	case 0:
		n = 200 << 10 // in several frames
	case 1:
		n = 40 << 10 // most of the read buffer
	case 2:
		n = 0
	}
	b := make([]byte, n)
	for k := range b {
		b[k] = byte(i + k*7)
	}
	return b
}

// sendLoans sends n messages, some ordinary, some BytesMessages, with pauses now and
// then, so that reads bring much and little.
func sendLoans(send func(any) error, n int) error {
	for i := range n {
		m := any(wrapperspb.Bytes(loanMessage(i)))
		if i%3 == 0 {
			m = &blob{data: loanMessage(i)}
		}
		if err := send(m); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if i%97 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// receiveLoans receives them, into either kind, and checks each again after the next
// have come.
func receiveLoans(recv func(any) error, n int) error {
	kept := make([]*blob, 0, n)
	defer func() {
		for _, b := range kept {
			b.release()
		}
	}()
	for i := range n {
		b := &blob{}
		if i%2 == 0 {
			if err := recv(b); err != nil {
				return fmt.Errorf("message %d: %w", i, err)
			}
		} else {
			var m wrapperspb.BytesValue
			if err := recv(&m); err != nil {
				return fmt.Errorf("message %d: %w", i, err)
			}
			b.data = m.Value
		}
		kept = append(kept, b)
		for k := max(0, i-40); k <= i; k += 1 + (i-k)/2 {
			if want := loanMessage(k); !bytes.Equal(kept[k].data, want) {
				return fmt.Errorf("message %d, after %d: %d bytes that are not the %d sent", k, i, len(kept[k].data), len(want))
			}
		}
		if i%211 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// TestLoans: messages are what was sent, on both sides, however they come.
func TestLoans(t *testing.T) {
	const n = 1000
	ended := make(chan error, 1)
	srv := newEchoServer(nil, nil)
	bidi(srv, func(ss grpc.ServerStream) (err error) {
		defer func() { ended <- err }()
		if err := receiveLoans(ss.RecvMsg, n); err != nil {
			return err
		}
		if err := ss.RecvMsg(&blob{}); !errors.Is(err, io.EOF) {
			return fmt.Errorf("%v instead of the end", err)
		}
		return sendLoans(ss.SendMsg, n)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cs, err := callBidi(ctx, clientFor(t, serveUnix(t, srv), "native/unix"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sendLoans(cs.SendMsg, n); err != nil {
		t.Fatal(err)
	}
	if err := cs.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := receiveLoans(cs.RecvMsg, n); err != nil {
		t.Fatal(err)
	}
	if err := cs.RecvMsg(&blob{}); !errors.Is(err, io.EOF) {
		t.Fatalf("%v instead of the end", err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// loanBatch is a connection whose reader has read what frames there are, for a stream
// whose receiver leads, and another.
type loanBatch struct {
	c        *conn
	s, other *stream
	want     [][]byte // of s
	taken    int
}

func newLoanBatch(t *testing.T) *loanBatch {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	l := &loanBatch{c: &conn{greeted: true, streams: make(map[uint32]*stream)}}
	l.c.init(a, DefaultStreamWindow, DefaultConnWindow)
	l.c.rd.buf = buffers.Get(readBuffer)
	add := func(id uint32) *stream {
		cs := &clientStream{desc: &grpc.StreamDesc{ServerStreams: true}, headerKnown: true}
		cs.c, cs.id, cs.cl = l.c, id, cs
		cs.recv = newRecvWindow(DefaultStreamWindow)
		l.c.streams[id] = &cs.stream
		return &cs.stream
	}
	l.s, l.other = add(1), add(2)
	l.c.leader, l.c.reading = &l.s.rw, true
	return l
}

// frame puts a message of n bytes for s into the read buffer.
func (l *loanBatch) frame(s *stream, n int) {
	rd := l.c.rd
	msg := bytes.Repeat([]byte{byte(len(l.want))}, n)
	b := appendHeader(nil, header{length: uint32(n), typ: frameData, flags: flagMsg, stream: s.id})
	rd.w += copy((*rd.buf)[rd.w:], append(b, msg...))
	if s == l.s {
		l.want = append(l.want, msg)
	}
}

// handle handles the batch, and then overwrites all that others might read into.
func (l *loanBatch) handle(t *testing.T) {
	t.Helper()
	if err := l.c.process(); err != nil {
		t.Fatal(err)
	}
	if l.c.rd.buf != nil {
		clear(*l.c.rd.buf)
	}
	l.scribble()
}

// scribble overwrites what was put back into the pool.
func (l *loanBatch) scribble() {
	for range 8 {
		b := buffers.Get(readBuffer)
		clear(*b)
		defer buffers.Put(b)
	}
}

// take receives a message of s.
func (l *loanBatch) take(t *testing.T) {
	t.Helper()
	m, err := l.s.next(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	l.scribble()
	if want := l.want[l.taken]; !bytes.Equal(m.data, want) {
		t.Fatalf("message %d is not what was sent", l.taken)
	}
	l.taken++
	m.drop()
}

func TestLentBuffer(t *testing.T) {
	l := newLoanBatch(t)
	for range 63 { // more than a run
		l.frame(l.s, 1<<10)
	}
	first := l.c.rd.buf
	l.handle(t)
	if l.s.loan != first || l.c.rd.buf == first {
		t.Fatal("the read buffer is not lent")
	}
	for range l.want {
		l.take(t)
	}
	l.c.mu.Lock()
	l.s.settle()
	l.s.repay()
	l.c.mu.Unlock()
	if l.s.loan != nil {
		t.Error("the read buffer is not given back")
	}
}

// TestLentBufferAndTail: the beginning of a frame that is not complete goes on in
// another buffer.
func TestLentBufferAndTail(t *testing.T) {
	l := newLoanBatch(t)
	for range 40 {
		l.frame(l.s, 1<<10)
	}
	rd := l.c.rd
	rd.w += copy((*rd.buf)[rd.w:], appendHeader(nil, header{length: 100, typ: frameData, flags: flagMsg, stream: 1}))
	if err := l.c.process(); err != nil {
		t.Fatal(err)
	}
	if l.s.loan == nil || rd.w-rd.r != headerLen || parseHeader((*rd.buf)[rd.r:rd.w]).length != 100 {
		t.Errorf("lent %v, and %d bytes are left", l.s.loan != nil, rd.w-rd.r)
	}
	for range l.want {
		l.take(t)
	}
}

// TestBorrowedAndLarge: a frame that goes to its own receiver with the read buffer
// does not take what lies before it along.
func TestBorrowedAndLarge(t *testing.T) {
	l := newLoanBatch(t)
	for range 10 {
		l.frame(l.s, 1<<10)
	}
	l.frame(l.other, 40<<10)
	buf := l.c.rd.buf
	l.handle(t)
	if l.s.loan != nil {
		t.Error("the read buffer is lent for less than half of it")
	}
	if l.other.queue[0].own == buf {
		t.Error("the read buffer went to the other receiver, who may free it at once")
	}
	m, err := l.other.next(1 << 20)
	if err != nil || len(m.data) != 40<<10 {
		t.Fatalf("%d bytes, %v", len(m.data), err)
	}
	m.drop()
	l.scribble()
	for range l.want {
		l.take(t)
	}
}

// TestNothingBorrowed: what is short, or for a receiver that sleeps, or the one answer
// of a call, is copied at once.
func TestNothingBorrowed(t *testing.T) {
	for name, change := range map[string]func(l *loanBatch){
		"another leads": func(l *loanBatch) { l.c.leader = &l.other.rw },
		"one answer":    func(l *loanBatch) { l.s.cl.desc = unaryDesc },
		"lent already":  func(l *loanBatch) { l.s.loan = new([]byte) },
	} {
		l := newLoanBatch(t)
		change(l)
		for range 40 {
			l.frame(l.s, 1<<10)
		}
		before := l.s.loan
		l.handle(t)
		if l.s.loan != before || l.s.borrows() {
			t.Errorf("%s: borrowed", name)
		}
	}
}
