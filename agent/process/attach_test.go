//go:build linux

package process

import (
	"bytes"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestAttachAtEachOffset(t *testing.T) {
	c := newCarrier(t, nil)
	const size = 300
	id := newID()
	c.start(t, id, helper(t, "write", strconv.Itoa(size), "7"))
	c.wait(t, id)
	check := func(open *guestv1.Open) {
		t.Helper()
		s, err := c.attach(testContext(t), open)
		if err != nil {
			t.Fatal(err)
		}
		defer s.stop()
		if err := s.finish(); err != nil {
			t.Fatalf("%v: %v", open, err)
		}
		for i, off := range []uint64{open.StdoutOffset, open.StderrOffset} {
			if want := trueBytes(i, off, size-int(off)); !bytes.Equal(s.out[i], want) {
				t.Fatalf("%v: stream %d: %d bytes, not the true %d", open, i, len(s.out[i]), len(want))
			}
		}
	}
	for off := uint64(0); off <= size; off++ {
		check(&guestv1.Open{SessionId: id, Role: guestv1.Role_ROLE_OBSERVER, StdoutOffset: off, StderrOffset: size - off})
	}
	// An owner's offset acknowledges what is before it.
	for off := uint64(0); off <= size; off++ {
		check(&guestv1.Open{SessionId: id, Role: guestv1.Role_ROLE_OWNER, StdoutOffset: off, StderrOffset: off})
	}
	if _, err := c.attach(testContext(t), &guestv1.Open{SessionId: id, StdoutOffset: size + 1, TakeOver: true}); status.Code(err) != codes.OutOfRange || reasonOf(err) != reasonOffsetAhead {
		t.Errorf("attach beyond the end: %v", err)
	}
	// All is acknowledged by now: an owner goes on there, if it does not ask for
	// more, and an observer begins with all that is kept.
	for _, tt := range []struct {
		open *guestv1.Open
		at   uint64
	}{
		{&guestv1.Open{FromOldest: true}, size},
		{&guestv1.Open{}, 0},
		{&guestv1.Open{FromOldest: true, Role: guestv1.Role_ROLE_OBSERVER}, 0},
		{&guestv1.Open{TailBytes: new(uint64(9)), Role: guestv1.Role_ROLE_OBSERVER}, size - 9},
	} {
		tt.open.SessionId, tt.open.TakeOver = id, true
		s, err := c.attach(testContext(t), tt.open)
		if err != nil {
			t.Fatal(err)
		}
		defer s.stop()
		if s.opened.StdoutOffset != tt.at || s.opened.StderrOffset != tt.at {
			t.Errorf("%v: opened at %d and %d, want %d", tt.open, s.opened.StdoutOffset, s.opened.StderrOffset, tt.at)
		}
	}
}

// TestHistoryGivesWay shows that what is acknowledged is kept while nobody needs
// the memory, and that no process waits for it.
func TestHistoryGivesWay(t *testing.T) {
	c := newCarrier(t, &Config{MaxRingsTotal: minRingsTotal})
	ctx := testContext(t)
	const size = 256 << 10
	chatty := newID()
	s, err := c.exec(ctx, &guestv1.Open{SessionId: chatty, Spec: shell("i=0; while [ $i -lt 64 ]; do printf %4000d 0; i=$((i+1)); done; sleep 1000")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	for s.at[stdout] < 64*4000 {
		if err := s.next(); err != nil {
			t.Fatal(err)
		}
		if err := s.ack(); err != nil {
			t.Fatal(err)
		}
	}
	wait.For(t, "all is acknowledged", func() bool { return c.describe(t, chatty).StdoutAcknowledged == 64*4000 })
	if info := c.describe(t, chatty); info.StdoutFirst != 0 && info.StdoutFirst > 64*4000-largeChunk {
		t.Errorf("kept from %d on of %d", info.StdoutFirst, info.StdoutEnd)
	}
	// Others have more than half of the memory for what nobody has read.
	var last []byte
	for range minRingsTotal / size * 3 / 4 {
		last = newID()
		spec := shell("head -c " + strconv.Itoa(size) + " /dev/zero")
		spec.RingBytes = size
		c.start(t, last, spec)
	}
	wait.For(t, "the memory is in use", func() bool { return c.srv.memory.pool.Used() > minRingsTotal*2/3 })
	if exit := c.wait(t, last); exit.StdoutBytes != size {
		t.Errorf("the last wrote %d bytes", exit.StdoutBytes)
	}
	// What is acknowledged now is not kept.
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "the history is dropped", func() bool { return c.describe(t, chatty).StdoutFirst == 64*4000 })
}

// TestAttachMakesRoom attaches an owner beyond what was acknowledged, while the
// process waits for just that.
func TestAttachMakesRoom(t *testing.T) {
	c := newCarrier(t, nil)
	const ring = 64 << 10
	id := newID()
	spec := helper(t, "write", strconv.Itoa(4*ring), "4096")
	spec.RingBytes = ring
	c.start(t, id, spec)
	wait.For(t, "the rings are full", func() bool {
		info := c.describe(t, id)
		return info.StdoutEnd == ring && info.StderrEnd == ring
	})
	s, err := c.attach(testContext(t), &guestv1.Open{SessionId: id, StdoutOffset: ring / 2, StderrOffset: ring / 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	for s.at[stdout] <= ring {
		if err := s.next(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestResumeAfterEveryCut(t *testing.T) {
	c := newCarrier(t, nil)
	ctx := testContext(t)
	const size = 3 << 20
	spec := helper(t, "write", strconv.Itoa(size), "5003")
	open := &guestv1.Open{SessionId: newID(), Spec: spec}
	var got [outputs][]byte
	for cut := 1; ; cut++ {
		s, err := c.exec(ctx, open)
		if err != nil {
			t.Fatal(err)
		}
		if s.opened.Attached != (cut > 1) || s.opened.StdoutOffset != open.StdoutOffset || s.opened.StderrOffset != open.StderrOffset {
			t.Fatalf("cut %d: opened %v, want to go on at %d and %d", cut, s.opened, open.StdoutOffset, open.StderrOffset)
		}
		// Some pieces, acknowledged or not, and then the connection is gone.
		for range 10 {
			if err = s.next(); err != nil || s.exit != nil {
				break
			}
			if cut%2 == 0 {
				err = s.ack()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		s.stop()
		for i := range got {
			got[i] = append(got[i], s.out[i]...)
		}
		open.StdoutOffset, open.StderrOffset, open.AgentId = s.at[stdout], s.at[stderr], s.opened.AgentId
		if s.exit != nil {
			break
		}
	}
	for i := range got {
		if !bytes.Equal(got[i], trueBytes(i, 0, size)) {
			t.Errorf("stream %d: %d bytes in all, not the true %d", i, len(got[i]), size)
		}
	}
}

func TestObserverIsToldWhatItLost(t *testing.T) {
	c := newCarrier(t, nil)
	ctx := testContext(t)
	const size = 1 << 20
	spec := helper(t, "write", strconv.Itoa(size), "4096")
	spec.RingBytes = 8192
	id := newID()
	owner, err := c.exec(ctx, &guestv1.Open{SessionId: id, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer owner.stop()
	// It has no credit, so it falls behind while the owner goes on.
	observer, err := c.attach(ctx, &guestv1.Open{SessionId: id, Role: guestv1.Role_ROLE_OBSERVER, Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer observer.stop()
	if err := owner.close(); err != nil {
		t.Fatal(err)
	}
	if err := owner.finish(); err != nil {
		t.Fatal(err)
	}
	if owner.lost != [outputs]uint64{} || owner.at != [outputs]uint64{size, size} {
		t.Errorf("the owner got up to %v and lost %v", owner.at, owner.lost)
	}
	if err := observer.close(); err != nil {
		t.Fatal(err)
	}
	if err := observer.finish(); err != nil {
		t.Fatal(err)
	}
	for i, out := range observer.out {
		if uint64(len(out))+observer.lost[i] != size || observer.lost[i] == 0 {
			t.Errorf("stream %d: %d bytes and %d lost, want %d in all and some lost", i, len(out), observer.lost[i], size)
		}
		if tail := out[len(out)-8192:]; !bytes.Equal(tail, trueBytes(i, size-8192, 8192)) {
			t.Errorf("stream %d: its end is not the true one", i)
		}
	}
}

func TestDropOldest(t *testing.T) {
	c := newCarrier(t, nil)
	const ring, size = 10000, 1 << 20
	spec := helper(t, "write-exit", strconv.Itoa(size))
	spec.RingBytes, spec.RingFull = ring, guestv1.RingFull_RING_FULL_DROP_OLDEST
	id := newID()
	c.start(t, id, spec)
	exit := c.wait(t, id)
	if exit.StdoutBytes != size || exit.GetCode() != 3 {
		t.Fatalf("exit %v, want code 3 and %d bytes", exit, size)
	}
	info := c.describe(t, id)
	kept := info.StdoutEnd - info.StdoutFirst
	if kept < ring || kept > ring+widePipe {
		t.Errorf("kept %d bytes, want %d, and what was in the pipe at the end", kept, ring)
	}
	tests := []struct {
		open *guestv1.Open
		at   uint64
	}{
		{&guestv1.Open{}, info.StdoutFirst},
		{&guestv1.Open{FromOldest: true}, info.StdoutFirst},
		{&guestv1.Open{TailBytes: new(uint64(100))}, size - 100},
		{&guestv1.Open{TailBytes: new(uint64(0))}, size},
		{&guestv1.Open{TailBytes: new(uint64(1 << 60))}, info.StdoutFirst},
	}
	for _, tt := range tests {
		tt.open.SessionId, tt.open.Role = id, guestv1.Role_ROLE_OBSERVER
		s, err := c.attach(testContext(t), tt.open)
		if err != nil {
			t.Fatal(err)
		}
		if s.opened.StdoutOffset != tt.at {
			t.Errorf("%v: opened at %d, want %d", tt.open, s.opened.StdoutOffset, tt.at)
		}
		if err := s.finish(); err != nil {
			t.Fatal(err)
		}
		s.stop()
		if !bytes.Equal(s.out[stdout], trueBytes(stdout, tt.at, size-int(tt.at))) || s.lost[stdout] != 0 {
			t.Errorf("%v: got %d bytes, not the true %d", tt.open, len(s.out[stdout]), size-tt.at)
		}
	}
}

func TestTakeOver(t *testing.T) {
	c := newCarrier(t, nil)
	ctx := testContext(t)
	id := newID()
	spec := shell("read a; read b; echo $a $b")
	spec.Stdin, spec.Name = true, "shared"
	first, err := c.exec(ctx, &guestv1.Open{SessionId: id, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	if err := first.input(0, []byte("one\n"), false); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "the agent has the first line", func() bool { return c.describe(t, id).StdinOffset == 4 })
	if _, err := c.attach(ctx, &guestv1.Open{Name: "shared"}); reasonOf(err) != reasonOwnerPresent {
		t.Errorf("a second owner: %v", err)
	}
	observer, err := c.attach(ctx, &guestv1.Open{Name: "shared", Role: guestv1.Role_ROLE_OBSERVER})
	if err != nil {
		t.Fatal(err)
	}
	defer observer.stop()
	second, err := c.attach(ctx, &guestv1.Open{Name: "shared", TakeOver: true})
	if err != nil {
		t.Fatal(err)
	}
	defer second.stop()
	if err := first.finish(); status.Code(err) != codes.Aborted || reasonOf(err) != reasonTakenOver {
		t.Errorf("the first owner ends with %v", err)
	}
	if second.opened.StdinOffset != 4 {
		t.Fatalf("stdin goes on at %d, want 4", second.opened.StdinOffset)
	}
	if info := c.describe(t, id); !info.HasOwner || info.Observers != 1 {
		t.Errorf("session %v, want an owner and an observer", info)
	}
	if err := second.input(4, []byte("two\n"), true); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*stream{second, observer} {
		if err := s.finish(); err != nil {
			t.Fatal(err)
		}
		if got := string(s.out[stdout]); got != "one two\n" {
			t.Errorf("output %q", got)
		}
	}
}

// TestOwnerComesBack shows who takes an owner's place without asking for it: the
// same client, and not one that another has taken over from.
func TestOwnerComesBack(t *testing.T) {
	c := newCarrier(t, nil)
	ctx := testContext(t)
	id, a, b := newID(), newID(), newID()
	first, err := c.exec(ctx, &guestv1.Open{SessionId: id, Spec: helper(t, "forever"), ClientId: a})
	if err != nil {
		t.Fatal(err)
	}
	defer first.stop()
	attach := func(client []byte, takeOver bool) (*stream, error) {
		return c.attach(ctx, &guestv1.Open{SessionId: id, ClientId: client, TakeOver: takeOver})
	}
	back, err := attach(a, false)
	if err != nil {
		t.Fatalf("the owner comes back: %v", err)
	}
	defer back.stop()
	if err := first.finish(); reasonOf(err) != reasonTakenOver {
		t.Errorf("the owner's former call ends with %v", err)
	}
	if _, err := attach(b, false); reasonOf(err) != reasonOwnerPresent {
		t.Errorf("another client: %v", err)
	}
	other, err := attach(b, true)
	if err != nil {
		t.Fatal(err)
	}
	defer other.stop()
	if _, err := attach(a, false); reasonOf(err) != reasonTakenOver {
		t.Errorf("the former owner comes back: %v", err)
	}
	if _, err := c.exec(ctx, &guestv1.Open{SessionId: id, ClientId: a}); reasonOf(err) != reasonTakenOver {
		t.Errorf("the former owner comes back as it began: %v", err)
	}
	if _, err := attach([]byte("short"), true); reasonOf(err) != reasonBadSpec {
		t.Errorf("a short client id: %v", err)
	}
}

func TestObserverMayOnlyRead(t *testing.T) {
	c := newCarrier(t, nil)
	id := newID()
	spec := helper(t, "deaf")
	spec.Stdin = true
	spec.Terminal = &guestv1.Terminal{Size: &guestv1.WindowSize{Rows: 24, Columns: 80}}
	c.start(t, id, spec)
	for _, send := range []func(*stream) error{
		func(s *stream) error {
			return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_WindowSize{WindowSize: &guestv1.WindowSize{Rows: 1, Columns: 1}}})
		},
		func(s *stream) error { return s.input(0, []byte("x"), false) },
		func(s *stream) error {
			return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Signal{Signal: &guestv1.SendSignal{Signal: 9}}})
		},
		func(s *stream) error {
			return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_CloseOutput{CloseOutput: &guestv1.CloseOutput{Stream: guestv1.Stream_STREAM_STDOUT}}})
		},
	} {
		s, err := c.attach(testContext(t), &guestv1.Open{SessionId: id, Role: guestv1.Role_ROLE_OBSERVER})
		if err != nil {
			t.Fatal(err)
		}
		if err := send(s); err != nil && !isEnd(err) {
			t.Fatal(err)
		}
		if err := s.finish(); reasonOf(err) != reasonNotOwner {
			t.Errorf("error %v, want %s", err, reasonNotOwner)
		}
		s.stop()
	}
	if info := c.describe(t, id); info.Exit != nil || info.StdinOffset != 0 {
		t.Errorf("session %v, want untouched", info)
	}
	ses, err := c.srv.find(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	if size, err := unix.IoctlGetWinsize(int(ses.io.terminal.Fd()), unix.TIOCGWINSZ); err != nil || size.Row != 24 || size.Col != 80 {
		t.Errorf("the window is %+v, %v; want 24 by 80", size, err)
	}
}

// TestRemovedUnderAnObserver shows that a session that is removed while it is watched
// leaves no memory taken once its watcher has gone.
func TestRemovedUnderAnObserver(t *testing.T) {
	c := newCarrier(t, nil)
	id := newID()
	c.start(t, id, helper(t, "write-exit", "200000"))
	observer, err := c.attach(testContext(t), &guestv1.Open{SessionId: id, Role: guestv1.Role_ROLE_OBSERVER, Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	c.wait(t, id)
	if c.srv.memory.pool.Used() == 0 {
		t.Fatal("the session holds no output")
	}
	if _, err := c.client.Remove(testContext(t), &guestv1.RemoveRequest{SessionId: id}); err != nil {
		t.Fatal(err)
	}
	observer.stop()
	wait.For(t, "the memory is given back", func() bool { return c.srv.memory.pool.Used() == 0 })
}
