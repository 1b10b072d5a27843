//go:build linux

package process

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func TestStdinResumes(t *testing.T) {
	c := newCarrier(t, nil)
	ctx := testContext(t)
	const size = 2<<20 + 3
	data := trueBytes(7, 0, size)
	spec := helper(t, "count")
	spec.Stdin = true
	open := &guestv1.Open{SessionId: newID(), Spec: spec}
	for {
		s, err := c.exec(ctx, open)
		if err != nil {
			t.Fatal(err)
		}
		at := s.opened.StdinOffset
		limit := at + s.opened.StdinWindow
		// As much as one window, in odd pieces, half of which is sent again
		// after the cut if the agent does not have it.
		end := min(limit, size)
		for at < end {
			n := min(7001, end-at)
			if err := s.input(at, data[at:at+n], at+n == size); err != nil {
				t.Fatal(err)
			}
			at += n
		}
		if s.opened.StdinEof {
			if err := s.finish(); err != nil {
				t.Fatal(err)
			}
			if got, want := string(s.out[stdout]), fmt.Sprintf("%d true <nil>\n", size); got != want {
				t.Errorf("the process read %q, want %q", got, want)
			}
			if s.exit.StdinBytes != size {
				t.Errorf("stdin carried %d bytes, want %d", s.exit.StdinBytes, size)
			}
			break
		}
		// The cut comes when the agent has taken some of it.
		if err := s.next(); err != nil {
			t.Fatal(err)
		}
		s.stop()
	}
}

func TestStdinRules(t *testing.T) {
	c := newCarrier(t, nil)
	big := make([]byte, stdinWindow+1)
	tests := []struct {
		name   string
		send   func(s *stream) error
		reason string
	}{
		{"a gap", func(s *stream) error { return s.input(1, []byte("x"), false) }, reasonStdinGap},
		{"beyond the window", func(s *stream) error { return s.input(0, big, false) }, reasonStdinWindow},
		{"after the end", func(s *stream) error { return errors.Join(s.input(0, nil, true), s.input(0, []byte("x"), false)) }, reasonProtocol},
		{"a second open", func(s *stream) error {
			return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: &guestv1.Open{}}})
		}, reasonProtocol},
		{"an acknowledgement of what was not sent", func(s *stream) error { return s.ackAt(guestv1.Stream_STREAM_STDOUT, 1<<40) }, reasonOffsetAhead},
		{"a size without a terminal", func(s *stream) error {
			return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_WindowSize{WindowSize: &guestv1.WindowSize{}}})
		}, reasonNoTerminal},
		{"no signal", func(s *stream) error {
			return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Signal{Signal: &guestv1.SendSignal{Signal: 65}}})
		}, reasonBadSignal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec := helper(t, "deaf")
			spec.Stdin = true
			spec.OwnerGraceMillis = new(uint64(0))
			s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: spec})
			if err != nil {
				t.Fatal(err)
			}
			defer s.stop()
			if err := tt.send(s); err != nil && !isEnd(err) {
				t.Fatal(err)
			}
			if err := s.finish(); reasonOf(err) != tt.reason {
				t.Errorf("error %v (%s), want %s", err, reasonOf(err), tt.reason)
			}
		})
	}
	t.Run("data for a session without stdin", func(t *testing.T) {
		s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: helper(t, "forever")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.stop()
		if err := s.input(0, nil, true); err != nil {
			t.Fatal(err)
		}
		s.firstLine(t)
		if err := s.input(0, []byte("x"), false); err != nil {
			t.Fatal(err)
		}
		if err := s.finish(); reasonOf(err) != reasonNoStdin {
			t.Errorf("error %v, want %s", err, reasonNoStdin)
		}
	})
}

func TestDeafProcessDoesNotBlockTheStream(t *testing.T) {
	c := newCarrier(t, nil)
	spec := helper(t, "deaf")
	spec.Stdin = true
	id := newID()
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: id, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if s.opened.StdinWindow != stdinWindow {
		t.Errorf("window %d, want %d", s.opened.StdinWindow, stdinWindow)
	}
	if err := s.input(0, make([]byte, stdinWindow), false); err != nil {
		t.Fatal(err)
	}
	s.firstLine(t)
	ses, err := c.srv.find(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	wait.For(t, "the pipe is filled", func() bool {
		ses.mu.Lock()
		defer ses.mu.Unlock()
		return ses.st.in.carried > 0
	})
	// What comes behind the full window is still heard.
	err = s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Signal{Signal: &guestv1.SendSignal{Signal: 15}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.finish(); err != nil {
		t.Fatal(err)
	}
	if s.exit.Signal != 15 || s.exit.StdinBytes == 0 || s.exit.StdinBytes >= stdinWindow {
		t.Errorf("exit %v, want signal 15 and as much stdin as a pipe holds", s.exit)
	}
}

func TestClosedStdinIsFedQuietly(t *testing.T) {
	c := newCarrier(t, nil)
	spec := helper(t, "shut")
	spec.Stdin = true
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.firstLine(t)
	// Several windows: each is taken although nobody reads it.
	at, limit := uint64(0), s.opened.StdinWindow
	for range 20 {
		n := limit - at
		if err := s.input(at, make([]byte, n), false); err != nil {
			t.Fatal(err)
		}
		at += n
		seen := len(s.flows)
		if err := s.until(func() bool { return len(s.flows) > seen }); err != nil {
			t.Fatal(err)
		}
		flow := s.flows[len(s.flows)-1]
		if flow.ConsumedOffset != at {
			t.Fatalf("taken up to %d, want %d", flow.ConsumedOffset, at)
		}
		limit = at + flow.Window
	}
	if err := s.leave(false); err != nil {
		t.Fatal(err)
	}
}
