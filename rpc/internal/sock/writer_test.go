package sock

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// testOwner is an Owner whose mutex is the test's.
type testOwner struct {
	mu     sync.Mutex
	woken  sync.Cond // something was sent, or there is room
	slept  int
	room   int
	failed error
}

func newTestOwner() *testOwner {
	o := &testOwner{}
	o.woken.L = &o.mu
	return o
}

func (o *testOwner) Busy() bool { return true }

func (o *testOwner) WriterSleeps() {
	o.mu.Lock()
	o.slept++
	o.woken.Broadcast()
	o.mu.Unlock()
}

func (o *testOwner) Sent(all []*Payload) {
	o.mu.Lock()
	for _, p := range all {
		p.Done = true
	}
	o.woken.Broadcast()
	o.mu.Unlock()
}

func (o *testOwner) HasRoom() {
	o.mu.Lock()
	o.room++
	o.woken.Broadcast()
	o.mu.Unlock()
}

func (o *testOwner) WriteFailed(err error) {
	o.mu.Lock()
	o.failed = err
	o.woken.Broadcast()
	o.mu.Unlock()
}

// until waits until cond holds. cond is called with mu held.
func (o *testOwner) until(cond func() bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for !cond() {
		o.woken.Wait()
	}
}

// send appends a message of stream id, by reference if it is long, and writes it.
func send(w *Writer, o *testOwner, id uint32, msg []byte, when When) {
	f := &Frame{Header: wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg, Stream: id}}
	var p *Payload
	if w.ByReference(len(msg)) {
		p = &Payload{B: msg}
		f.Ref = p
	} else {
		f.Msg = msg
	}
	o.mu.Lock()
	run := w.Append(f, when)
	o.mu.Unlock()
	if run {
		w.Run(p != nil)
	}
	if p != nil {
		o.until(func() bool { return p.Done })
	}
	if when == Later {
		w.Flush()
	}
}

// TestWriterAndReader: what several goroutines send comes complete and, for each, in
// its order, over a socket and over any other connection.
func TestWriterAndReader(t *testing.T) {
	const senders, each = 8, 200
	message := func(id uint32, i int) []byte {
		n := (int(id)*7919 + i*104729) % 3000
		switch i % 20 {
		case 0:
			n = 60 << 10
		case 1:
			n = RefFrom + i
		}
		return bytes.Repeat([]byte{byte(id) ^ byte(i)}, n)
	}
	for name, pair := range map[string]func() (a, b net.Conn){
		"socket": func() (a, b net.Conn) { return connected(t, "unix") },
		"pipe":   net.Pipe,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair()
			defer a.Close()
			defer b.Close()
			o := newTestOwner()
			w := NewWriter(a, Of(a), o)
			w.Greet([]byte("preface"))
			var wg sync.WaitGroup
			for id := uint32(1); id <= senders; id++ {
				wg.Go(func() {
					buf := make([]byte, 0, 64<<10)
					for i := range each {
						buf = append(buf[:0], message(id, i)...)
						send(w, o, id, buf, []When{Now, Yield, Soon, Later}[i%4])
						clear(buf) // it is the sender's again
					}
				})
			}
			rd := NewReader(b, Of(b))
			defer rd.Close()
			for len(rd.Buffered()) < len("preface") {
				if err := rd.Fill(0); err != nil {
					t.Fatal(err)
				}
			}
			if got := string(rd.Buffered()[:7]); got != "preface" {
				t.Fatalf("first came %q", got)
			}
			rd.Discard(7)
			seen := make([]int, senders+1)
			for left := senders * each; left > 0; {
				h, p, _, ok, err := rd.Next()
				if err == nil && !ok {
					err = rd.Fill(0)
				}
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					continue
				}
				if want := message(h.Stream, seen[h.Stream]); !bytes.Equal(p, want) {
					t.Fatalf("message %d of %d: %d bytes, want %d", seen[h.Stream], h.Stream, len(p), len(want))
				}
				seen[h.Stream]++
				left--
			}
			wg.Wait()
		})
	}
}

// TestKick: a sender whose payload lies with a write that sleeps gets it back, although
// the peer does not read.
func TestKick(t *testing.T) {
	a, b := connected(t, "unix")
	defer a.Close()
	defer b.Close()
	o := newTestOwner()
	w := NewWriter(a, Of(a), o)
	msg := bytes.Repeat([]byte("x"), 60<<10)
	done := make(chan int)
	go func() {
		n := 0
		for {
			send(w, o, 1, msg, Now)
			n++
			if o.mu.Lock(); o.slept > 0 {
				o.mu.Unlock()
				done <- n
				return
			}
			o.mu.Unlock()
		}
	}()
	o.until(func() bool { return o.slept > 0 })
	w.Kick()
	n := <-done
	clear(msg)
	go func() { w.Close(errors.New("over"), []byte("bye")) }()
	got, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	if want := n*(wire.HeaderLen+len(msg)) + len("bye"); len(got) != want || bytes.Count(got, []byte("x")) != n*len(msg) {
		t.Errorf("%d bytes, %d of them of messages, want %d", len(got), bytes.Count(got, []byte("x")), want)
	}
}

// TestWithdraw: a payload that waits behind a batch goes back to its sender as a copy.
func TestWithdraw(t *testing.T) {
	a, b := connected(t, "unix")
	defer a.Close()
	defer b.Close()
	o := newTestOwner()
	w := NewWriter(a, Of(a), o)
	p := &Payload{B: []byte("payload")}
	w.Append(&Frame{Header: wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg, Stream: 1}, Ref: p}, Later)
	if !w.Withdraw(p) || w.Withdraw(p) {
		t.Error("withdrawn never, or twice")
	}
	copy(p.B, "XXXXXXX")
	w.Flush()
	got := make([]byte, wire.HeaderLen+7)
	if _, err := io.ReadFull(b, got); err != nil || string(got[wire.HeaderLen:]) != "payload" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRoom: much that is pending makes senders wait, until it is written.
func TestRoom(t *testing.T) {
	a, b := connected(t, "unix")
	defer a.Close()
	defer b.Close()
	o := newTestOwner()
	w := NewWriter(a, Of(a), o)
	for !w.Full() {
		w.AppendControl(func(b []byte) []byte { return append(b, make([]byte, 100)...) })
	}
	if !w.AwaitRoom() {
		t.Error("room, where too much is pending")
	}
	go io.Copy(io.Discard, b)
	w.Flush()
	o.until(func() bool { return o.room == 1 })
	if w.Full() {
		t.Error("no room in the end")
	}
}

// TestControlIsBounded: a peer that makes this side answer, and does not read, is found
// out.
func TestControlIsBounded(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	w := NewWriter(a, nil, newTestOwner())
	n := 0
	for w.AppendControl(func(b []byte) []byte { return append(b, make([]byte, 1000)...) }) {
		if n += 1000; n > 2*MaxControlPending {
			t.Fatalf("%d bytes wait", n)
		}
	}
	if n < MaxControlPending-1000 {
		t.Errorf("refused after %d bytes", n)
	}
}

// deaf is a connection whose deadlines do nothing.
type deaf struct{ net.Conn }

func (deaf) SetDeadline(time.Time) error      { return nil }
func (deaf) SetReadDeadline(time.Time) error  { return nil }
func (deaf) SetWriteDeadline(time.Time) error { return nil }

// TestCloseWithADeafPeer: a connection that has ended is closed within lastWordTime,
// although a write is blocked and no deadline ends it.
func TestCloseWithADeafPeer(t *testing.T) {
	for _, busy := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			defer b.Close()
			o := newTestOwner()
			w := NewWriter(deaf{a}, nil, o)
			w.Append(&Frame{Header: wire.Header{Type: wire.FramePing}, Msg: make([]byte, 8)}, Later)
			if busy {
				w.Flush()
				synctest.Wait()
			}
			start := time.Now()
			w.Close(errors.New("over"), []byte("bye"))
			closed := make(chan struct{})
			go func() {
				_, _ = a.Read(make([]byte, 1)) // ends with the connection
				close(closed)
			}()
			<-closed
			if d := time.Since(start); d > lastWordTime {
				t.Errorf("busy %v: closed after %v", busy, d)
			}
		})
	}
}
