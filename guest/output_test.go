package guest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"testing"

	"pgregory.net/rapid"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestOutputProperty drives one output stream in every order: what the consumer
// gets is the stream, but for the gaps that were reported, and what is held
// stays within the window.
func TestOutputProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const total = 4000
		stream := randomBytes(7, total)
		window := uint64(rapid.IntRange(1, 300).Draw(t, "window"))
		mayLose := rapid.Bool().Draw(t, "may lose")
		var mu sync.Mutex
		o := newOutput(&mu, stdoutStream, 0, window)
		o.mayLose = mayLose
		if err := o.opened(0, false); err != nil {
			t.Fatal(err)
		}
		at, gaps := uint64(0), uint64(0)
		o.onGap = func(offset, n uint64) {
			if offset != at {
				t.Fatalf("gap at %d, want %d", offset, at)
			}
			at += n
			gaps += n
		}
		sent, limit := uint64(0), window // the agent's view
		var taken piece                  // by next, and not done
		ack := func() {
			if f := o.flowControl(false); f != nil {
				if f.ConsumedOffset > sent {
					t.Fatalf("acknowledged %d, sent %d", f.ConsumedOffset, sent)
				}
				limit = max(limit, f.ConsumedOffset+f.Window)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				n := min(uint64(rapid.IntRange(1, 100).Draw(t, "n")), limit-sent, total-sent)
				if n == 0 {
					t.Skip("no window")
				}
				if err := o.accept(&guestv1.Output{Stream: stdoutStream, Offset: sent, Data: stream[sent : sent+n : sent+n]}, nil); err != nil {
					t.Fatal(err)
				}
				sent += n
			},
			"lose": func(t *rapid.T) {
				n := min(uint64(rapid.IntRange(1, 50).Draw(t, "n")), total-sent)
				if !mayLose || n == 0 {
					t.Skip("no loss")
				}
				if err := o.accept(&guestv1.Output{Stream: stdoutStream, Offset: sent + n, Lost: n}, nil); err != nil {
					t.Fatal(err)
				}
				sent += n
				limit += n
			},
			"take": func(t *rapid.T) {
				if len(taken.data) > 0 || len(o.pieces) == 0 {
					t.Skip("nothing to take")
				}
				if last := o.pieces[len(o.pieces)-1]; len(last.data) == 0 && len(o.pieces) == 1 {
					t.Skip("only a gap")
				}
				p, err := o.next()
				if err != nil || !bytes.Equal(p.data, stream[at:at+uint64(len(p.data))]) {
					t.Fatalf("at %d: %d bytes that are not the stream's, %v", at, len(p.data), err)
				}
				at += uint64(len(p.data))
				taken = p
			},
			"done": func(t *rapid.T) {
				if len(taken.data) == 0 {
					t.Skip("nothing taken")
				}
				o.done(taken)
				taken = piece{}
				ack()
			},
			"read": func(t *rapid.T) {
				if len(taken.data) > 0 || len(o.pieces) == 0 || len(o.pieces[len(o.pieces)-1].data) == 0 {
					t.Skip("nothing to read")
				}
				p := make([]byte, rapid.IntRange(1, 80).Draw(t, "n"))
				n, err := outputReader{o}.Read(p)
				if err != nil || !bytes.Equal(p[:n], stream[at:at+uint64(n)]) {
					t.Fatalf("at %d: read %d bytes that are not the stream's, %v", at, n, err)
				}
				at += uint64(n)
				ack()
			},
			"reconnect": func(*rapid.T) {
				o.rewind()
				if err := o.opened(o.taken, false); err != nil {
					t.Fatal(err)
				}
				sent, limit = o.taken, o.taken+window
			},
			"": func(t *rapid.T) {
				held := uint64(0)
				for _, p := range o.pieces {
					held += uint64(len(p.data))
				}
				if held > window || o.taken != at || o.lost < gaps || o.consumed > o.taken || o.taken > o.received {
					t.Fatalf("holds %d of %d; taken %d of %d, consumed %d, received %d", held, window, o.taken, at, o.consumed, o.received)
				}
			},
		})
	})
}

// TestOutputClose shows that a stream which nobody wants stops nobody.
func TestOutputClose(t *testing.T) {
	var mu sync.Mutex
	o := newOutput(&mu, stdoutStream, 0, 100)
	if err := o.opened(0, false); err != nil {
		t.Fatal(err)
	}
	r := outputReader{o}
	o.accept(&guestv1.Output{Stream: stdoutStream, Data: []byte("abc")}, nil)
	r.Close()
	r.Close()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	for off := uint64(3); off < 1000; off += 50 {
		if err := o.accept(&guestv1.Output{Stream: stdoutStream, Offset: off, Data: make([]byte, 50)}, nil); err != nil {
			t.Fatal(err)
		}
		o.flowControl(false)
	}
}

// TestOutputEnds shows what a reader gets at the end, with and without an error.
func TestOutputEnds(t *testing.T) {
	for _, want := range []error{nil, errors.New("lost")} {
		var mu sync.Mutex
		o := newOutput(&mu, stdoutStream, 0, 100)
		o.opened(0, false)
		o.accept(&guestv1.Output{Stream: stdoutStream, Data: []byte("abc")}, nil)
		o.finish(want)
		got, err := io.ReadAll(outputReader{o})
		if string(got) != "abc" || err != want {
			t.Errorf("ReadAll: %q, %v, want all and %v", got, err, want)
		}
	}
}

// TestInputProperty drives stdin: what the agent is sent is the stream, from
// where the agent has got to.
func TestInputProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stream := randomBytes(9, 3000)
		var mu sync.Mutex
		in := newInput(&mu)
		window := uint64(rapid.IntRange(1, 500).Draw(t, "window"))
		open := func(at uint64, eof bool) {
			if err := in.opened(&guestv1.Opened{StdinOffset: at, StdinWindow: window, StdinEof: eof}); err != nil {
				t.Fatal(err)
			}
		}
		open(0, false)
		written, sent, taken := 0, uint64(0), uint64(0)
		closed, sentEOF, takenEOF := false, false, false
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				n := min(rapid.IntRange(1, 200).Draw(t, "n"), len(stream)-written)
				if closed || n == 0 {
					t.Skip("ended")
				}
				p := bytes.Clone(stream[written : written+n])
				if m, err := in.write(p); m != n || err != nil {
					t.Fatalf("write: %d, %v", m, err)
				}
				clear(p) // the caller's memory is the caller's again
				written += n
			},
			"close": func(t *rapid.T) {
				if closed = true; in.close() == nil && written == 0 {
					t.Skip("empty")
				}
			},
			"send": func(t *rapid.T) {
				m := in.message()
				if m == nil {
					if sent < min(uint64(written), in.limit) || closed && sent == uint64(written) && !sentEOF {
						t.Fatalf("nothing to send at %d of %d, limit %d", sent, written, in.limit)
					}
					t.Skip("nothing to send")
				}
				end := m.Offset + uint64(len(m.Data))
				if m.Offset != sent || end > in.limit || !bytes.Equal(m.Data, stream[m.Offset:end]) || m.Eof != (closed && end == uint64(written)) {
					t.Fatalf("sent %d bytes from %d, eof %v; want from %d, limit %d", len(m.Data), m.Offset, m.Eof, sent, in.limit)
				}
				sent, sentEOF = end, m.Eof
			},
			"take": func(t *rapid.T) {
				taken = rapid.Uint64Range(taken, sent).Draw(t, "to")
				takenEOF = sentEOF && taken == sent
				if err := in.taken(taken, window); err != nil {
					t.Fatal(err)
				}
			},
			"reconnect": func(*rapid.T) {
				open(taken, takenEOF)
				sent, sentEOF = taken, takenEOF
			},
		})
	})
}
