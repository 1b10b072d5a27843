//go:build linux

package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// describe returns what the agent says of a session, or nil.
func (c *carrier) describe(t testing.TB, id []byte) *guestv1.SessionInfo {
	t.Helper()
	resp, err := c.client.ListSessions(testContext(t), &guestv1.ListSessionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range resp.Sessions {
		if bytes.Equal(s.SessionId, id) {
			return s
		}
	}
	return nil
}

func (c *carrier) wait(t testing.TB, id []byte) *guestv1.Exit {
	t.Helper()
	w, err := c.client.Wait(testContext(t), &guestv1.WaitRequest{SessionId: id})
	if err != nil {
		t.Fatal(err)
	}
	return w.Exit
}

func (c *carrier) start(t testing.TB, id []byte, spec *guestv1.SessionSpec) *guestv1.SessionInfo {
	t.Helper()
	resp, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: id, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Session
}

// isEnd reports a call that ended well.
func isEnd(err error) bool { return errors.Is(err, io.EOF) }

func TestOwnerGone(t *testing.T) {
	c := newCarrier(t, nil)
	grace := func(ms uint64) func(*guestv1.SessionSpec) {
		return func(s *guestv1.SessionSpec) { s.OwnerGraceMillis = &ms }
	}
	cut := func(s *stream) error { s.stop(); return nil }
	tests := []struct {
		name   string
		change func(*guestv1.SessionSpec)
		go_    func(*stream) error
		ends   bool
	}{
		{"cut off, short grace", grace(50), cut, true},
		{"cut off, no grace", grace(0), cut, true},
		{"cut off, default grace", grace(uint64(defaultGrace / time.Millisecond)), cut, false},
		{"cut off, kept", func(s *guestv1.SessionSpec) {
			s.OwnerGone, s.OwnerGraceMillis = guestv1.OwnerGone_OWNER_GONE_KEEP, new(uint64(0))
		}, cut, false},
		{"leaves", grace(1 << 40), func(s *stream) error { return s.leave(false) }, true},
		{"leaves and keeps", grace(0), func(s *stream) error { return s.leave(true) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			id := newID()
			spec := helper(t, "forever")
			tt.change(spec)
			s, err := c.exec(testContext(t), &guestv1.Open{SessionId: id, Spec: spec})
			if err != nil {
				t.Fatal(err)
			}
			defer s.stop()
			s.firstLine(t)
			pid := int(s.opened.Session.Pid)
			if err := tt.go_(s); err != nil {
				t.Fatal(err)
			}
			if tt.ends {
				gone(t, pid)
				return
			}
			wait.For(t, "the owner is gone", func() bool { return !c.describe(t, id).HasOwner })
			if p, ok := readStat(pid); !ok || p.state == "Z" {
				t.Errorf("the process was ended")
			}
			s, err = c.attach(testContext(t), &guestv1.Open{SessionId: id, StdoutOffset: 6})
			if err != nil {
				t.Fatal(err)
			}
			s.stop()
		})
	}
}

func TestOwnerComesBackInTime(t *testing.T) {
	c := newCarrier(t, nil)
	id := newID()
	spec := helper(t, "forever")
	spec.OwnerGraceMillis = new(uint64(10000))
	open := &guestv1.Open{SessionId: id, Spec: spec}
	for range 3 {
		s, err := c.exec(testContext(t), open)
		if err != nil {
			t.Fatal(err)
		}
		s.stop()
		wait.For(t, "the owner is gone", func() bool { return !c.describe(t, id).HasOwner })
		ses, err := c.srv.find(t.Context(), id, "")
		if err != nil {
			t.Fatal(err)
		}
		ses.mu.Lock()
		running := ses.leash != nil
		ses.mu.Unlock()
		if !running {
			t.Fatal("no grace time runs")
		}
	}
	s, err := c.exec(testContext(t), open)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	ses, err := c.srv.find(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.leash != nil || ses.ending {
		t.Error("the grace time still runs with the owner back")
	}
}

// TestOldLeash: the end of a grace time that began before the owner was back does
// nothing to a session whose owner has gone again.
func TestOldLeash(t *testing.T) {
	c := newCarrier(t, nil)
	id := newID()
	spec := helper(t, "forever")
	spec.OwnerGraceMillis = new(uint64(60_000))
	open := &guestv1.Open{SessionId: id, Spec: spec}
	var leashes []*countdown
	var ses *session
	for range 2 {
		s, err := c.exec(testContext(t), open)
		if err != nil {
			t.Fatal(err)
		}
		s.stop()
		wait.For(t, "the owner is gone", func() bool { return !c.describe(t, id).HasOwner })
		if ses, err = c.srv.find(t.Context(), id, ""); err != nil {
			t.Fatal(err)
		}
		ses.mu.Lock()
		leashes = append(leashes, ses.leash)
		ses.mu.Unlock()
	}
	ending := func() bool {
		ses.mu.Lock()
		defer ses.mu.Unlock()
		return ses.ending
	}
	if leashes[0].f(); ending() {
		t.Error("the first grace time ends the session in its second")
	}
	if leashes[1].f(); !ending() {
		t.Error("the second grace time does not end the session")
	}
}

func TestStartRepeated(t *testing.T) {
	c := newCarrier(t, nil)
	id := newID()
	spec := helper(t, "forever")
	first := c.start(t, id, spec)
	second := c.start(t, id, &guestv1.SessionSpec{Args: args("something", "else")})
	if diff := cmp.Diff(first, second, protocmp.Transform(), protocmp.IgnoreFields(&guestv1.SessionInfo{}, "stdout_end")); diff != "" {
		t.Errorf("a repeated start (-first +second):\n%s", diff)
	}
	if first.OwnerGone != guestv1.OwnerGone_OWNER_GONE_KEEP {
		t.Errorf("policy %v, want keep", first.OwnerGone)
	}
	if _, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: []byte("short"), Spec: spec}); reasonOf(err) != reasonBadSpec {
		t.Errorf("a short id: %v", err)
	}
}

func TestWaitAndRemove(t *testing.T) {
	c := newCarrier(t, nil)
	ctx := testContext(t)
	id := newID()
	spec := helper(t, "stubborn")
	c.start(t, id, spec)
	wait.For(t, "the process ignores signals", func() bool { return c.describe(t, id).StdoutEnd > 0 })
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := c.client.Wait(short, &guestv1.WaitRequest{SessionId: id}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("wait for a session that runs: %v", err)
	}
	if _, err := c.client.Remove(ctx, &guestv1.RemoveRequest{SessionId: id}); status.Code(err) != codes.FailedPrecondition || reasonOf(err) != reasonSessionRunning {
		t.Errorf("remove a session that runs: %v", err)
	}
	exits := make(chan *guestv1.Exit)
	for range 2 {
		go func() { exits <- c.wait(t, id) }()
	}
	if _, err := c.client.Remove(ctx, &guestv1.RemoveRequest{SessionId: id, Force: true}); err != nil {
		t.Fatal(err)
	}
	a, b := <-exits, <-exits
	if diff := cmp.Diff(a, b, protocmp.Transform()); diff != "" {
		t.Errorf("two waits differ:\n%s", diff)
	}
	if a.Signal != 9 || a.Reason == "" {
		t.Errorf("exit %v, want signal 9 with a reason", a)
	}
	// It is gone for good, and its id is not used again.
	if _, err := c.client.Remove(ctx, &guestv1.RemoveRequest{SessionId: id}); err != nil {
		t.Errorf("remove again: %v", err)
	}
	if _, err := c.client.Wait(ctx, &guestv1.WaitRequest{SessionId: id}); reasonOf(err) != reasonSessionGone {
		t.Errorf("wait for a removed session: %v", err)
	}
	if _, err := c.client.Start(ctx, &guestv1.StartRequest{SessionId: id, Spec: spec}); reasonOf(err) != reasonSessionGone {
		t.Errorf("start a removed session again: %v", err)
	}
	for _, id := range [][]byte{newID(), nil} {
		if _, err := c.client.Wait(ctx, &guestv1.WaitRequest{SessionId: id}); status.Code(err) != codes.NotFound || reasonOf(err) != reasonNoSession {
			t.Errorf("wait for no session: %v", err)
		}
	}
}
