//go:build linux

package vsockdev

import (
	"testing"

	"pgregory.net/rapid"
)

// A flowEnd is one end of a connection of a model: a flow, what it has in its
// buffer, and the packets on their way to it.
type flowEnd struct {
	flow
	in       []header
	unread   int // bytes in the buffer, by the model's own count
	written  int // bytes given to it to send
	sentAll  int
	gotAll   int
	shutting uint32
	peer     *flowEnd
}

// deliver takes the next packet on its way.
func (e *flowEnd) deliver(t *rapid.T) {
	h := e.in[0]
	e.in = e.in[1:]
	if e.receive(&h) {
		e.unread += int(h.len)
		e.gotAll += int(h.len)
	}
	if e.unread > int(e.alloc) {
		t.Fatalf("%d bytes in a buffer of %d", e.unread, e.alloc)
	}
	if e.phase != phaseClosed && e.unread != int(e.buffered()) {
		t.Fatalf("%d bytes are buffered, the flow says %d", e.unread, e.buffered())
	}
}

// speak sends everything that is due.
func (e *flowEnd) speak() {
	var h header
	for e.next(&h) {
		e.peer.in = append(e.peer.in, h)
	}
}

// push sends as much as there is credit for, in a packet of at most n bytes.
func (e *flowEnd) push(t *rapid.T, n int) {
	size := min(e.credit(), e.written-e.sentAll, n)
	if size == 0 {
		if e.written > e.sentAll {
			e.starve()
		}
		return
	}
	var h header
	e.data(&h, size)
	e.sentAll += size
	e.peer.in = append(e.peer.in, h)
}

// finish ends a direction once everything was sent.
func (e *flowEnd) finish() {
	flags := e.shutting
	if e.sentAll < e.written && e.phase != phaseClosed && e.peerShut&shutRecv == 0 {
		flags &^= shutSend
	}
	if flags != 0 {
		e.close(flags)
	}
}

// TestFlow has two ends, of any buffers, do anything that the specification lets
// them: no end ever breaks a rule that the other holds it to, no byte is lost
// that was sent before an orderly end, and both come to an end.
func TestFlow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		alloc := rapid.Uint32Range(2, 1<<10)
		a := &flowEnd{flow: request(alloc.Draw(t, "a's buffer"))}
		var h header
		if !a.next(&h) || h.op != opRequest {
			t.Fatalf("the first packet is %+v", h)
		}
		b := &flowEnd{flow: offered(alloc.Draw(t, "b's buffer"), &h)}
		a.peer, b.peer = b, a
		b.accept()
		ends := []*flowEnd{a, b}
		step := func(e *flowEnd, what int) {
			switch what {
			case 0:
				if e.shutting&shutSend == 0 {
					e.written += rapid.IntRange(1, 5000).Draw(t, "bytes")
				}
			case 1:
				if e.unread > 0 {
					n := rapid.IntRange(1, e.unread).Draw(t, "read")
					e.unread -= n
					e.pass(n)
				}
			case 2:
				if len(e.in) > 0 {
					e.deliver(t)
				}
			case 3:
				e.push(t, rapid.IntRange(1, 2000).Draw(t, "packet"))
			case 4:
				e.shutting |= rapid.SampledFrom([]uint32{shutSend, shutBoth, shutSend}).Draw(t, "shutdown")
			}
			e.finish()
			e.speak()
		}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			step(ends[rapid.IntRange(0, 1).Draw(t, "end")], rapid.IntRange(0, 4).Draw(t, "what"))
			for _, e := range ends {
				if e.phase == phaseClosed && a.shutting != shutBoth && b.shutting != shutBoth {
					t.Fatal("an end broke a rule")
				}
			}
		}
		endFlows(t, ends)
		a.close(shutBoth)
		a.speak()
		for len(b.in) > 0 || len(a.in) > 0 {
			for _, e := range ends {
				for len(e.in) > 0 {
					e.deliver(t)
				}
				e.speak()
			}
		}
		if a.phase != phaseClosed || b.phase != phaseClosed {
			t.Fatalf("at the end: phases %v and %v", a.phase, b.phase)
		}
	})
}

// endFlows has both ends send no more. Then everything comes that was written, but
// for what nobody was to read.
func endFlows(t *rapid.T, ends []*flowEnd) {
	for range 100000 {
		busy := false
		for _, e := range ends {
			e.shutting |= shutSend // nothing more is written
			for len(e.in) > 0 {
				busy = true
				e.deliver(t)
			}
			e.pass(e.unread)
			e.unread = 0
			before := e.sentAll
			e.push(t, 1000)
			e.finish()
			e.speak()
			busy = busy || e.sentAll != before || len(e.peer.in) > 0
		}
		if !busy {
			break
		}
	}
	for _, e := range ends {
		whole := e.peer.shut&shutRecv == 0 && e.shut&shutRecv == 0
		if whole && e.peer.gotAll != e.written {
			t.Fatalf("%d bytes came of %d", e.peer.gotAll, e.written)
		}
	}
}

// TestFlowViolations has packets come that break the rules: each resets the
// connection.
func TestFlowViolations(t *testing.T) {
	open := func() flow {
		f := offered(100, &header{op: opRequest, bufAlloc: 50})
		f.accept()
		return f
	}
	half := open()
	half.receive(&header{op: opShutdown, flags: shutSend, bufAlloc: 50})
	for name, tt := range map[string]struct {
		flow flow
		h    header
	}{
		"more than the credit":        {open(), header{op: opRW, len: 101, bufAlloc: 50}},
		"more than 2^31":              {open(), header{op: opRW, len: 1<<32 - 1, bufAlloc: 50}},
		"passed on what never came":   {open(), header{op: opCreditUpdate, fwdCnt: 1, bufAlloc: 50}},
		"bytes after the end":         {half, header{op: opRW, len: 1, bufAlloc: 50}},
		"a second request":            {open(), header{op: opRequest}},
		"a response to nothing":       {open(), header{op: opResponse}},
		"an unknown operation":        {open(), header{op: 77}},
		"no operation":                {open(), header{}},
		"bytes before the response":   {request(100), header{op: opRW, len: 1}},
		"a shutdown before it":        {request(100), header{op: opShutdown, flags: shutBoth}},
		"bytes before the acceptance": {offered(100, &header{}), header{op: opRW, len: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			f := tt.flow
			if f.receive(&tt.h) {
				t.Error("its bytes are taken")
			}
			var h header
			if f.phase != phaseClosed || !f.next(&h) || h.op != opReset || f.next(&h) {
				t.Errorf("phase %v, answer %+v, want a reset alone", f.phase, h)
			}
		})
	}
}

// TestFlowCredit checks numbers around the end of their range.
func TestFlowCredit(t *testing.T) {
	f := offered(100, &header{bufAlloc: 50})
	f.accept()
	f.sent, f.peerPassed = 1<<32-10, 1<<32-10
	var h header
	f.data(&h, 30) // wraps
	if got := f.credit(); got != 20 {
		t.Errorf("credit %d, want 20", got)
	}
	if f.receive(&header{op: opCreditUpdate, bufAlloc: 10, fwdCnt: 1<<32 - 10}); f.credit() != 0 {
		t.Errorf("credit %d with a buffer that became smaller, want 0", f.credit())
	}
	f.starve()
	f.starve()
	n := 0
	for f.next(&h) {
		if h.op == opCreditRequest {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d requests for credit, want 1", n)
	}
	if f.receive(&header{op: opCreditUpdate, bufAlloc: 1<<32 - 1, fwdCnt: 20}); f.credit() != 1<<32-1 {
		t.Errorf("credit %d", f.credit())
	}
}
