package process

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// trueByte is the byte at an offset of a test's output stream.
func trueByte(stream int, off uint64) byte {
	x := (off + uint64(stream)*1e9 + 1) * 0x9E3779B97F4A7C15
	return byte(x >> 56)
}

func trueBytes(stream int, off uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = trueByte(stream, off+uint64(i))
	}
	return b
}

// client model: what one reader has been given, checked against the truth.
type modelReader struct {
	r        *reader
	owner    bool
	client   string
	at       [outputs]uint64
	consumed [outputs]uint64
	limit    [outputs]uint64
	window   uint64
	lost     [outputs]uint64
	eof      [outputs]bool
	exited   bool
	held     []piece // sent, and not released yet
	want     [][]byte
}

// machine drives one state at random, beside the plainest model of what it must
// do.
type machine struct {
	mem     *memory
	st      *state
	drop    bool
	max     uint64
	written [outputs]uint64
	ended   [outputs]bool
	exit    *guestv1.Exit
	readers []*modelReader
	// What an owner has acknowledged, or asked to skip, at most; and the most
	// that this ever was, as an owner may go back.
	acked, mostAcked [outputs]uint64
	former           string // the client that was last taken over from

	stdin     []byte // what clients have sent and the agent has taken
	fed       []byte // what the process has got
	stdinEOF  bool
	stdinTrue []byte
}

func TestStateIsTheTrueStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		drop := rapid.Bool().Draw(t, "drop")
		limit := uint64(rapid.SampledFrom([]int{1, 100, smallChunk, 3 * smallChunk, 3 * largeChunk}).Draw(t, "ring"))
		mem := uint64(rapid.SampledFrom([]int{0, largeChunk, 1 << 30}).Draw(t, "memory"))
		m := &machine{mem: newMemory(mem), drop: drop, max: limit}
		m.st = newState(m.mem.of(charge.Everybody), limit, drop, guestv1.OwnerGone_OWNER_GONE_KILL)
		m.st.in.connected = true
		m.stdinTrue = trueBytes(7, 0, 4*stdinWindow)
		t.Repeat(map[string]func(*rapid.T){
			"":           m.check,
			"write":      m.write,
			"end":        m.end,
			"exit":       m.exits,
			"attach":     m.attach,
			"reset":      m.reset,
			"receive":    m.receive,
			"drain":      m.drain,
			"release":    m.release,
			"ack":        m.ack,
			"halfClose":  m.halfClose,
			"send stdin": m.sendStdin,
			"read stdin": m.readStdin,
		})
		m.finish(t)
	})
}

// TestNothingAfterEnd runs out of memory once the end of a stream was sent: that
// is no reason to say more of it.
func TestNothingAfterEnd(t *testing.T) {
	s := newState(newMemory(2*smallChunk).of(charge.Everybody), 1<<20, false, guestv1.OwnerGone_OWNER_GONE_KILL)
	r, f := s.attach(&guestv1.Open{Role: guestv1.Role_ROLE_OWNER})
	if f != nil {
		t.Fatal(f)
	}
	write := func(stream, n int) {
		copy(s.reserve(stream, false), trueBytes(stream, 0, n))
		s.out[stream].commit(n)
	}
	write(stdout, smallChunk)
	s.end(stdout)
	p, ok := s.next(r)
	if !ok || !p.output.GetEof() || p.output.Acknowledge {
		t.Fatalf("first %v", p.output)
	}
	s.release(r, p)
	write(stderr, 1)
	if !s.out[stdout].needsMemory() {
		t.Fatal("memory is not short")
	}
	for {
		p, ok := s.next(r)
		if !ok {
			return
		}
		if p.output.GetStream() == guestv1.Stream_STREAM_STDOUT {
			t.Fatalf("after the end: %v", p.output)
		}
		s.release(r, p)
	}
}

func (m *machine) stream(t *rapid.T) int { return rapid.IntRange(0, outputs-1).Draw(t, "stream") }

func (m *machine) reader(t *rapid.T) *modelReader {
	if len(m.readers) == 0 {
		t.Skip("nobody is attached")
	}
	return rapid.SampledFrom(m.readers).Draw(t, "reader")
}

// write is the process's: it may write in parts, or find no room.
func (m *machine) write(t *rapid.T) {
	i := m.stream(t)
	if m.ended[i] {
		t.Skip("the stream has ended")
	}
	force := rapid.IntRange(0, 9).Draw(t, "force") == 0
	buf := m.st.reserve(i, force)
	if buf == nil {
		if m.drop && m.mem.pool.Limit() > largeChunk {
			t.Fatalf("stream %d: no room although the oldest may be dropped", i)
		}
		if chunks := m.st.out[i].chunks; len(chunks) > 0 && chunks[0].end() <= m.acked[i] {
			t.Fatalf("stream %d: no memory, and %d bytes held that are acknowledged", i, m.acked[i]-m.st.out[i].first)
		}
		held := m.written[i] - m.acked[i]
		if held < m.max && (m.mem.pool.Limit() > 1<<20 || len(m.st.out[i].chunks) == 0) {
			t.Fatalf("stream %d: no room with %d of %d bytes unread", i, held, m.max)
		}
		return
	}
	n := rapid.IntRange(0, len(buf)).Draw(t, "n")
	if rapid.Bool().Draw(t, "all") {
		n = len(buf)
	}
	copy(buf, trueBytes(i, m.written[i], n))
	m.st.out[i].commit(n)
	m.written[i] += uint64(n)
}

func (m *machine) end(t *rapid.T) {
	i := m.stream(t)
	m.st.end(i)
	m.ended[i] = true
}

func (m *machine) exits(t *rapid.T) {
	if !m.ended[stdout] || !m.ended[stderr] || m.exit != nil {
		t.Skip("not yet, or already")
	}
	m.exit = &guestv1.Exit{Code: new(uint32(7))}
	m.st.exit = m.exit
	m.st.in.discard()
}

func (m *machine) attach(t *rapid.T) {
	if len(m.readers) >= 4 {
		t.Skip("enough readers")
	}
	open := &guestv1.Open{
		Role:     guestv1.Role_ROLE_OBSERVER,
		TakeOver: rapid.Bool().Draw(t, "take over"),
		Window:   uint64(rapid.SampledFrom([]int{0, 1, 1000, 1 << 20}).Draw(t, "window")),
		ClientId: []byte(rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "client")),
	}
	if rapid.Bool().Draw(t, "owner") {
		open.Role = guestv1.Role_ROLE_OWNER
	}
	wanted := [outputs]*uint64{&open.StdoutOffset, &open.StderrOffset}
	ahead := false
	for i := range wanted {
		*wanted[i] = rapid.Uint64Range(0, m.written[i]+1).Draw(t, "offset")
		ahead = ahead || *wanted[i] > m.written[i]
	}
	switch rapid.IntRange(0, 3).Draw(t, "where") {
	case 0:
		open.FromOldest, ahead = true, false
	case 1:
		open.TailBytes, ahead = new(rapid.Uint64Range(0, 2*m.max).Draw(t, "tail")), false
	}
	owner := m.owner()
	first := [outputs]uint64{m.st.out[stdout].first, m.st.out[stderr].first}
	r, f := m.st.attach(open)
	switch {
	case ahead:
		if f == nil || f.Reason() != reasonOffsetAhead {
			t.Fatalf("attach beyond the end: %v", f)
		}
		return
	case open.Role == guestv1.Role_ROLE_OWNER && owner != nil:
		if want := m.refuses(owner, open); want != "" {
			if f == nil || f.Reason() != want {
				t.Fatalf("a second owner: %v, want %s", f, want)
			}
			return
		}
		if owner.client == "" || owner.client != string(open.ClientId) {
			m.former = owner.client
		}
	}
	switch {
	case f != nil:
		t.Fatalf("attach: %v", f)
	}
	mr := &modelReader{r: r, owner: open.Role == guestv1.Role_ROLE_OWNER, client: string(open.ClientId), window: open.Window}
	if mr.window == 0 {
		mr.window = defaultRing
	}
	for i := range wanted {
		at := r.out[i].next
		switch {
		case open.FromOldest && mr.owner && at != max(first[i], m.acked[i]):
			t.Fatalf("stream %d: an owner starts at %d, acknowledged is %d", i, at, m.acked[i])
		case open.FromOldest && !mr.owner && at != first[i]:
			t.Fatalf("stream %d: starts at %d, the oldest is %d", i, at, first[i])
		case open.TailBytes != nil && at != max(first[i], m.written[i]-min(m.written[i], *open.TailBytes)):
			t.Fatalf("stream %d: the last %d bytes start at %d", i, *open.TailBytes, at)
		case !open.FromOldest && open.TailBytes == nil && at != max(first[i], *wanted[i]):
			t.Fatalf("stream %d: starts at %d, wanted %d of %d", i, at, *wanted[i], first[i])
		}
		mr.at[i], mr.consumed[i], mr.limit[i] = at, at, at+mr.window
		if mr.owner {
			m.acked[i] = at
		}
	}
	if mr.owner && owner != nil {
		p, ok := m.st.next(owner.r)
		if !ok || p.fault == nil || p.fault.Reason() != reasonTakenOver {
			t.Fatalf("the former owner gets %+v", p)
		}
		m.remove(owner, nil)
	}
	m.readers = append(m.readers, mr)
}

// refuses returns why a client may not take an owner's place, or nothing.
func (m *machine) refuses(owner *modelReader, open *guestv1.Open) string {
	client := string(open.ClientId)
	switch {
	case client != "" && client == owner.client:
		return ""
	case client != "" && client == m.former:
		return reasonTakenOver
	case !open.TakeOver:
		return reasonOwnerPresent
	}
	return ""
}

func (m *machine) owner() *modelReader {
	for _, r := range m.readers {
		if r.owner {
			return r
		}
	}
	return nil
}

// remove detaches a reader and checks what follows.
func (m *machine) remove(r *modelReader, leave *guestv1.Leave) goneAction {
	for _, p := range r.held {
		m.releaseOne(r, p)
	}
	action := m.st.detach(r.r, leave)
	for i := range m.readers {
		if m.readers[i] == r {
			m.readers = append(m.readers[:i:i], m.readers[i+1:]...)
			break
		}
	}
	return action
}

func (m *machine) reset(t *rapid.T) {
	r := m.reader(t)
	var leave *guestv1.Leave
	if rapid.Bool().Draw(t, "leave") {
		leave = &guestv1.Leave{Keep: rapid.Bool().Draw(t, "keep")}
	}
	want := goneNothing
	switch {
	case !r.owner:
	case m.exit != nil && leave != nil && r.exited:
		want = goneConsumed
	case m.exit != nil:
	case leave == nil:
		want = goneGrace
	case !leave.Keep:
		want = goneEnd
	}
	if got := m.remove(r, leave); got != want {
		t.Fatalf("a reader is gone (%+v, %v): action %d, want %d", r, leave, got, want)
	}
}

// receive gives a reader its next piece, which it holds for a while, as a
// sender that is stuck does.
func (m *machine) receive(t *rapid.T) {
	m.take(t, m.reader(t))
}

func (m *machine) take(t *rapid.T, r *modelReader) bool {
	p, ok := m.st.next(r.r)
	if !ok {
		return false
	}
	switch {
	case p.output != nil:
		m.takeOutput(t, r, p)
	case p.flow != nil:
		if !r.owner || p.flow.ConsumedOffset != uint64(len(m.stdin)) {
			t.Fatalf("stdin: told of %v, has %d", p.flow, len(m.stdin))
		}
	case p.exit != nil:
		if r.exited || m.exit == nil || !r.eof[stdout] || !r.eof[stderr] || r.at != m.written {
			t.Fatalf("exit at %v of %v, ends %v", r.at, m.written, r.eof)
		}
		r.exited = true
	default:
		t.Fatalf("piece %+v", p)
	}
	return true
}

func (m *machine) takeOutput(t *rapid.T, r *modelReader, p piece) {
	i, o := p.stream, p.output
	if o.Offset != r.at[i]+o.Lost {
		t.Fatalf("stream %d: goes on at %d, not at %d with %d lost", i, o.Offset, r.at[i], o.Lost)
	}
	if o.Lost > 0 && r.owner && !m.drop {
		t.Fatalf("stream %d: the owner lost %d bytes although the process has to wait", i, o.Lost)
	}
	if want := trueBytes(i, o.Offset, len(o.Data)); !bytes.Equal(o.Data, want) {
		t.Fatalf("stream %d: bytes from %d on are not the true ones", i, o.Offset)
	}
	if o.Acknowledge && (!r.owner || m.drop) {
		t.Fatalf("stream %d: asked to acknowledge, owner %v, drop %v", i, r.owner, m.drop)
	}
	if r.eof[i] || len(o.Data) == 0 && !o.Eof && !o.Acknowledge || len(o.Data) > maxPiece {
		t.Fatalf("stream %d: a piece of %d bytes, eof %v after %v", i, len(o.Data), o.Eof, r.eof[i])
	}
	r.limit[i] = addCapped(r.limit[i], o.Lost) // which takes no credit
	r.at[i] = o.Offset + uint64(len(o.Data))
	if !r.r.silent && len(o.Data) > 0 && r.at[i] > r.limit[i] {
		t.Fatalf("stream %d: sent up to %d, beyond the window up to %d", i, r.at[i], r.limit[i])
	}
	if r.eof[i] = o.Eof; o.Eof && (!m.ended[i] || r.at[i] != m.written[i]) {
		t.Fatalf("stream %d: ends at %d of %d", i, r.at[i], m.written[i])
	}
	r.lost[i] += o.Lost
	r.held = append(r.held, p)
	r.want = append(r.want, bytes.Clone(o.Data))
}

// An owner that acknowledges no more than it is asked for never gets stuck:
// whatever it has got, the process has room or the owner was asked.
func (m *machine) checkUrged(t *rapid.T) {
	r := m.owner()
	if r == nil || r.r.silent {
		return
	}
	for i := range m.st.out {
		if m.st.hasRoom(i) || m.ended[i] {
			continue
		}
		c := &r.r.out[i]
		if c.next > c.consumed && c.urged < c.next && c.next == m.written[i] {
			t.Fatalf("stream %d: no room, %d of %d acknowledged, asked for %d", i, c.consumed, c.next, c.urged)
		}
	}
}

// drain gives a reader all that there is for it.
func (m *machine) drain(t *rapid.T) {
	r := m.reader(t)
	for m.take(t, r) {
		m.releaseAll(t, r)
	}
	if r.owner {
		m.checkUrged(t)
	}
}

// release ends the sending of what a reader holds: it must be what it was.
func (m *machine) release(t *rapid.T) { m.releaseAll(t, m.reader(t)) }

func (m *machine) releaseAll(t *rapid.T, r *modelReader) {
	for i, p := range r.held {
		if !bytes.Equal(p.output.Data, r.want[i]) {
			t.Fatalf("stream %d: the bytes from %d on changed while they were sent", p.stream, p.output.Offset)
		}
		m.releaseOne(r, p)
	}
	r.held, r.want = nil, nil
}

func (m *machine) releaseOne(r *modelReader, p piece) {
	m.st.release(r.r, p)
	if i := p.stream; m.st.owner == r.r && r.r.silent {
		m.acked[i] = max(m.acked[i], r.at[i])
	}
}

func (m *machine) ack(t *rapid.T) {
	r, i := m.reader(t), m.stream(t)
	off := rapid.Uint64Range(r.consumed[i], r.at[i]+1).Draw(t, "consumed")
	window := rapid.SampledFrom([]uint64{0, 1, 1000, 1 << 20, 1<<64 - 1}).Draw(t, "new window")
	f := m.st.acknowledge(r.r, i, off, window)
	if off > r.at[i] {
		if f == nil || f.Reason() != reasonOffsetAhead {
			t.Fatalf("acknowledge %d of %d: %v", off, r.at[i], f)
		}
		return
	}
	if f != nil {
		t.Fatalf("acknowledge %d of %d: %v", off, r.at[i], f)
	}
	r.consumed[i] = off
	r.limit[i] = addCapped(off, window)
	if r.owner {
		m.acked[i] = max(m.acked[i], off)
	}
}

func (m *machine) halfClose(t *rapid.T) {
	r := m.reader(t)
	m.st.halfClose(r.r)
	if r.owner {
		for i := range r.at {
			m.acked[i] = max(m.acked[i], r.at[i])
		}
	}
}

// sendStdin is a client's that may repeat what it does not know the agent has.
func (m *machine) sendStdin(t *rapid.T) {
	end := len(m.stdin)
	from := rapid.IntRange(0, end+1).Draw(t, "from")
	n := rapid.SampledFrom([]int{0, 1, 900, smallChunk, stdinWindow}).Draw(t, "n")
	eof := rapid.IntRange(0, 20).Draw(t, "eof") == 0
	to := min(from+n, len(m.stdinTrue))
	if from > to {
		t.Skip("no more")
	}
	_, f := m.st.in.take(uint64(from), bytes.Clone(m.stdinTrue[from:to]), eof, nil)
	want := ""
	switch {
	case from > end:
		want = reasonStdinGap
	case m.stdinEOF && (to > end || eof && to < end), eof && to < end:
		want = reasonProtocol
	case to > len(m.fed)+stdinWindow && !m.st.in.closed:
		want = reasonStdinWindow
	}
	if want != "" {
		if f == nil || f.Reason() != want {
			t.Fatalf("stdin %d to %d, eof %v: %v, want %s", from, to, eof, f, want)
		}
		return
	}
	if f != nil {
		t.Fatalf("stdin %d to %d, eof %v: %v", from, to, eof, f)
	}
	m.stdin = m.stdinTrue[:max(end, to)]
	m.stdinEOF = m.stdinEOF || eof
}

func (m *machine) readStdin(t *rapid.T) {
	data := m.st.in.pending()
	n := rapid.IntRange(0, len(data)).Draw(t, "n")
	m.fed = append(m.fed, data[:n]...)
	if len(data) > 0 {
		m.st.in.advance(n)
	}
}

// check holds after every step.
func (m *machine) check(t *rapid.T) {
	for i := range m.st.out {
		o := &m.st.out[i]
		if o.end != m.written[i] || o.first > o.end || o.end-o.first > m.max {
			t.Fatalf("stream %d: holds %d to %d of %d, at most %d", i, o.first, o.end, m.written[i], m.max)
		}
		if !m.drop && o.first > m.acked[i] {
			t.Fatalf("stream %d: dropped %d, acknowledged %d", i, o.first, m.acked[i])
		}
		// What is acknowledged is kept, if there is memory, at least so far back.
		m.mostAcked[i] = max(m.mostAcked[i], m.acked[i])
		oldest := max(less(m.mostAcked[i], largeChunk), less(o.end, m.max))
		if m.mem.pool.Limit() > 1<<20 && o.first > oldest {
			t.Fatalf("stream %d: dropped %d, could keep from %d on", i, o.first, oldest)
		}
	}
	if !bytes.HasPrefix(m.stdin, m.fed) {
		t.Fatal("the process got other bytes than were sent")
	}
	if in := &m.st.in; in.end != uint64(len(m.stdin)) || in.eof != m.stdinEOF || in.end-in.written > stdinWindow {
		t.Fatalf("stdin: %+v, want %d", in, len(m.stdin))
	}
	if m.mem.pool.Used() < 0 {
		t.Fatalf("memory in use: %d", m.mem.pool.Used())
	}
}

// less is a-b, or 0 if b is more.
func less(a, b uint64) uint64 { return a - min(a, b) }

// finish ends everything: a last owner gets all that is left, and then no
// memory may be held.
func (m *machine) finish(t *rapid.T) {
	for i := range m.ended {
		m.st.end(i)
		m.ended[i] = true
	}
	if m.exit == nil {
		m.exit = &guestv1.Exit{}
		m.st.exit = m.exit
	}
	for len(m.readers) > 0 {
		m.remove(m.readers[0], nil)
	}
	r, f := m.st.attach(&guestv1.Open{FromOldest: true, Window: 1 << 40})
	if f != nil {
		t.Fatal(f)
	}
	last := &modelReader{r: r, owner: true, window: 1 << 40}
	for i := range last.at {
		last.at[i], last.limit[i] = r.out[i].next, 1<<41
	}
	m.readers = append(m.readers, last)
	for m.take(t, last) {
		m.releaseAll(t, last)
	}
	if !last.exited {
		t.Fatalf("a last reader is left at %v of %v", last.at, m.written)
	}
	m.remove(last, &guestv1.Leave{})
	m.st.dropAll()
	if used := m.mem.pool.Used(); used != 0 {
		t.Fatalf("%d bytes of memory are still held", used)
	}
}
