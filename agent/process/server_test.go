//go:build linux

package process

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestAgentRestarted(t *testing.T) {
	c := newCarrier(t, &Config{AgentID: "this run"})
	ctx := testContext(t)
	marker := t.TempDir() + "/ran"
	open := &guestv1.Open{SessionId: newID(), Spec: shell("echo > " + marker), AgentId: "another run"}
	if _, err := c.exec(ctx, open); status.Code(err) != codes.Aborted || reasonOf(err) != reasonAgentRestarted {
		t.Errorf("exec in a session of another run: %v", err)
	}
	if _, err := c.attach(ctx, open); status.Code(err) != codes.Aborted || reasonOf(err) != reasonAgentRestarted {
		t.Errorf("attach to a session of another run: %v", err)
	}
	if _, err := c.client.Start(ctx, &guestv1.StartRequest{SessionId: newID(), Spec: open.Spec, AgentId: open.AgentId}); status.Code(err) != codes.Aborted || reasonOf(err) != reasonAgentRestarted {
		t.Errorf("start for another run: %v", err)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("the program ran in the wrong run of the agent")
	}
	open.AgentId = "this run"
	s, err := c.exec(ctx, open)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if s.opened.AgentId != "this run" {
		t.Errorf("agent id %q", s.opened.AgentId)
	}
}

func TestTooManySessions(t *testing.T) {
	c := newCarrier(t, &Config{MaxSessions: 2})
	a, b := newID(), newID()
	c.start(t, a, helper(t, "forever"))
	c.start(t, b, helper(t, "forever"))
	_, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: newID(), Spec: shell("exit 0")})
	if status.Code(err) != codes.ResourceExhausted || reasonOf(err) != reasonTooMany {
		t.Errorf("a third session: %v", err)
	}
	c.start(t, a, helper(t, "forever")) // is there already
	if _, err := c.client.Remove(testContext(t), &guestv1.RemoveRequest{SessionId: a, Force: true}); err != nil {
		t.Fatal(err)
	}
	c.start(t, newID(), shell("exit 0"))
}

func TestNames(t *testing.T) {
	c := newCarrier(t, nil)
	named := func(script string) *guestv1.SessionSpec {
		spec := shell(script)
		spec.Name = "build"
		return spec
	}
	first := newID()
	c.start(t, first, named("read a; exit 3"))
	c.wait(t, first)
	second := newID()
	spec := helper(t, "forever")
	spec.Name = "build"
	c.start(t, second, spec)
	if _, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: newID(), Spec: named("exit 0")}); status.Code(err) != codes.AlreadyExists || reasonOf(err) != reasonNameTaken {
		t.Errorf("a name that is taken: %v", err)
	}
	s, err := c.attach(testContext(t), &guestv1.Open{Name: "build"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if !bytes.Equal(s.opened.Session.SessionId, second) {
		t.Error("the name means the session that has ended")
	}
	if _, err := c.attach(testContext(t), &guestv1.Open{Name: "other"}); reasonOf(err) != reasonNoSession {
		t.Errorf("a name that nobody has: %v", err)
	}
}

func TestResultsAreKeptForATime(t *testing.T) {
	c := newCarrier(t, &Config{MaxEnded: 3})
	var ids [][]byte
	for i := range 5 {
		id := newID()
		ids = append(ids, id)
		c.start(t, id, shell(fmt.Sprintf("exit %d", i)))
		c.wait(t, id)
	}
	for i, id := range ids {
		w, err := c.client.Wait(testContext(t), &guestv1.WaitRequest{SessionId: id})
		switch {
		case i < 2 && reasonOf(err) != reasonSessionGone:
			t.Errorf("session %d: %v, want it forgotten", i, err)
		case i >= 2 && (err != nil || w.Exit.GetCode() != uint32(i)):
			t.Errorf("session %d: %v, %v, want code %d", i, w, err, i)
		}
	}
	for _, ms := range []uint64{0, 30} {
		id := newID()
		spec := shell("echo gone")
		spec.RetentionMillis = &ms
		c.start(t, id, spec)
		wait.For(t, "the session is forgotten", func() bool { return c.describe(t, id) == nil })
		if _, err := c.attach(testContext(t), &guestv1.Open{SessionId: id}); reasonOf(err) != reasonSessionGone {
			t.Errorf("attach to a forgotten session: %v", err)
		}
	}
}

func TestExitIsAcknowledged(t *testing.T) {
	c := newCarrier(t, nil)
	id := newID()
	open := &guestv1.Open{SessionId: id, Spec: shell("echo hi"), AcknowledgesExit: true}
	// The first client is cut off after the exit, before it says anything.
	s, err := c.exec(testContext(t), open)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.until(func() bool { return s.exit != nil }); err != nil {
		t.Fatal(err)
	}
	s.stop()
	wait.For(t, "the client is gone", func() bool { return !c.describe(t, id).HasOwner })
	if s, err = c.exec(testContext(t), open); err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := s.until(func() bool { return s.exit != nil }); err != nil {
		t.Fatal(err)
	}
	if !s.opened.Attached || string(s.out[stdout]) != "hi\n" {
		t.Errorf("attached %v, output %q: want all of it again", s.opened.Attached, s.out[stdout])
	}
	if err := s.leave(false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.recv(); !isEnd(err) {
		t.Errorf("after the acknowledgement: %v", err)
	}
	// It has ended once the rest of its process group has, soon after the exit.
	wait.For(t, "the session is forgotten", func() bool { return c.describe(t, id) == nil })
	if _, err := c.exec(testContext(t), open); reasonOf(err) != reasonSessionGone {
		t.Errorf("exec after the acknowledgement: %v", err)
	}
}

func TestClose(t *testing.T) {
	c := newCarrier(t, nil)
	ctx := testContext(t)
	spec := helper(t, "stubborn")
	id := newID()
	s, err := c.exec(ctx, &guestv1.Open{SessionId: id, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.firstLine(t)
	pid := int(s.opened.Session.Pid)
	waited := make(chan error, 1)
	go func() {
		_, err := c.client.Wait(ctx, &guestv1.WaitRequest{SessionId: id})
		waited <- err
	}()
	if err := c.srv.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := readStat(pid); ok {
		t.Errorf("process %d is still there", pid)
	}
	if err := s.finish(); err != nil || s.exit.Signal != 9 || s.exit.Reason != "the agent stops" {
		t.Errorf("an attached client gets %v, %v, want how the session ended", s.exit, err)
	}
	if err := <-waited; err != nil {
		t.Errorf("a waiting client gets %v, want how the session ended", err)
	}
	if _, err := c.run(ctx, shell("exit 0"), ""); status.Code(err) != codes.Unavailable || reasonOf(err) != reasonAgentStopping {
		t.Errorf("exec after the end: %v", err)
	}
	if err := c.srv.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

func TestWatch(t *testing.T) {
	c := newCarrier(t, nil)
	w, err := c.client.WatchSessions(testContext(t), &guestv1.WatchSessionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Header(); err != nil { // from now on nothing is missed
		t.Fatal(err)
	}
	id := newID()
	c.start(t, id, shell("exit 5"))
	var words []string
	for range 2 {
		e, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		switch e := e.Event.(type) {
		case *guestv1.WatchSessionsResponse_Started:
			words = append(words, fmt.Sprint("started ", bytes.Equal(e.Started.SessionId, id)))
		case *guestv1.WatchSessionsResponse_Exited:
			words = append(words, fmt.Sprint("exited ", e.Exited.Exit.GetCode()))
		}
		if e.TimeUnixNanos == 0 {
			t.Error("an event without a time")
		}
	}
	if got := strings.Join(words, ", "); got != "started true, exited 5" {
		t.Errorf("events: %s", got)
	}
}

func TestWatcherThatFallsBehind(t *testing.T) {
	c := newCarrier(t, nil)
	w := &watcher{wake: make(chan struct{}, 1)}
	ses := &session{spec: &guestv1.SessionSpec{}, cmd: &command{}, st: newState(c.srv.memory.of(charge.Everybody), 1, false, guestv1.OwnerGone_OWNER_GONE_KILL)}
	c.srv.mu.Lock()
	c.srv.watchers[w] = true
	c.srv.mu.Unlock()
	for range watchQueue + 7 {
		c.srv.publish(ses, func(*guestv1.SessionInfo) *guestv1.WatchSessionsResponse { return &guestv1.WatchSessionsResponse{} })
	}
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	if len(w.queue) != watchQueue || w.lost != 7 {
		t.Errorf("%d events queued, %d lost, want %d and 7", len(w.queue), w.lost, watchQueue)
	}
	delete(c.srv.watchers, w)
}

func TestCloseOutput(t *testing.T) {
	c := newCarrier(t, nil)
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: helper(t, "endless")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := s.next(); err != nil {
		t.Fatal(err)
	}
	for _, name := range streamNames {
		err := s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_CloseOutput{CloseOutput: &guestv1.CloseOutput{Stream: name}}})
		if err != nil && !isEnd(err) {
			t.Fatal(err)
		}
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if s.exit.Signal != 13 || s.exit.OutputHeldOpen {
		t.Errorf("exit %v, want signal 13", s.exit)
	}
}

func TestOnePipeForBoth(t *testing.T) {
	c := newCarrier(t, nil)
	spec := shell("for i in 1 2 3; do echo o$i; echo e$i >&2; done")
	spec.StderrToStdout = true
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.out[stdout]), "o1\ne1\no2\ne2\no3\ne3\n"; got != want || len(s.out[stderr]) > 0 {
		t.Errorf("output %q and %q, want %q in one", got, s.out[stderr], want)
	}
}

func TestListProcesses(t *testing.T) {
	c := newCarrier(t, nil)
	id := newID()
	before := time.Now()
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: id, Spec: helper(t, "family", "\xff arg", "")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	var child int
	if _, err := fmt.Sscan(s.firstLine(t), &child); err != nil {
		t.Fatal(err)
	}
	list, err := c.client.ListProcesses(testContext(t), &guestv1.ListProcessesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[uint32]*guestv1.ProcessInfo)
	last := uint32(0)
	for {
		resp, err := list.Recv()
		if isEnd(err) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range resp.Processes {
			if p.Pid <= last {
				t.Errorf("pid %d comes after %d", p.Pid, last)
			}
			last = p.Pid
			found[p.Pid] = p
		}
	}
	p := found[s.opened.Session.Pid]
	if p == nil || found[uint32(child)] == nil || found[uint32(os.Getpid())] == nil {
		t.Fatalf("the session, its descendant and the agent are not all in the list of %d", len(found))
	}
	if !bytes.Equal(p.SessionId, id) || !bytes.Equal(found[uint32(child)].SessionId, id) || len(found[uint32(os.Getpid())].SessionId) != 0 {
		t.Error("the session and its descendant, and nobody else, are to be members")
	}
	if p.ParentPid != uint32(os.Getpid()) || p.Uid != uint32(os.Geteuid()) || p.ProcessGroup != p.Pid || p.Threads == 0 || p.ResidentBytes == 0 || p.VirtualBytes == 0 || !strings.Contains("RSD", p.State) {
		t.Errorf("process %v", p)
	}
	if len(p.Args) != 3 || string(p.Args[1]) != "\xff arg" || len(p.Args[2]) != 0 {
		t.Errorf("arguments %q", p.Args)
	}
	if start := time.Unix(0, p.StartUnixNanos); start.Before(before.Add(-time.Minute)) || start.After(time.Now().Add(time.Minute)) {
		t.Errorf("started at %v, want about %v", start, before)
	}

	signal := func(req *guestv1.SignalRequest) error {
		_, err := c.client.Signal(testContext(t), req)
		return err
	}
	byPid := &guestv1.SignalRequest_Pid{Pid: uint32(child)}
	ticks := found[uint32(child)].StartTicks
	if err := signal(&guestv1.SignalRequest{Target: byPid, Signal: 9, StartTicks: ticks + 1}); status.Code(err) != codes.NotFound || reasonOf(err) != reasonNoProcess {
		t.Errorf("signal to a process that started at another time: %v", err)
	}
	if err := signal(&guestv1.SignalRequest{Target: byPid, StartTicks: ticks}); err != nil {
		t.Errorf("signal 0: %v", err)
	}
	if err := signal(&guestv1.SignalRequest{Target: byPid, Signal: 9, StartTicks: ticks}); err != nil {
		t.Errorf("signal 9: %v", err)
	}
	gone(t, child)
	bySession := &guestv1.SignalRequest_SessionId{SessionId: id}
	if err := signal(&guestv1.SignalRequest{Target: bySession, Signal: 99}); reasonOf(err) != reasonBadSignal {
		t.Errorf("signal 99: %v", err)
	}
	if err := signal(&guestv1.SignalRequest{Target: bySession, Signal: 15, Group: true}); err != nil {
		t.Errorf("signal to the group: %v", err)
	}
	if e := c.wait(t, id); e.Signal != 15 {
		t.Errorf("exit %v, want signal 15", e)
	}
	if err := signal(&guestv1.SignalRequest{Target: bySession, Signal: 15}); reasonOf(err) != reasonNoProcess {
		t.Errorf("signal to a session that has ended: %v", err)
	}
	if err := signal(&guestv1.SignalRequest{Signal: 15}); reasonOf(err) != reasonBadSpec {
		t.Errorf("signal to nobody: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	fields := "S 1 2 3 0 -1 4194560 0 0 0 0 10 20 0 0 20 0 7 0 12345 4096 18446744073709551615 0"
	for _, name := range []string{"sh", "a b", ") S 9 (", ""} {
		p, ok := parseStat(42, "42 ("+name+") "+fields)
		want := procStat{pid: 42, parent: 1, group: 2, session: 3, name: name, state: "S", ticks: 30, threads: 7, startTicks: 12345, virtual: 4096, resident: 1<<64 - 1}
		if !ok || p != want {
			t.Errorf("name %q: %+v, %v", name, p, ok)
		}
	}
	for _, bad := range []string{"", "42 (sh", "42 (sh) S 1", "42 (sh) " + strings.Replace(fields, "12345", "x", 1)} {
		if p, ok := parseStat(42, bad); ok {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}
