//go:build linux

package process

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestLittleIsKept: of a session no more is kept than people look at, however long
// its arguments are, and a list of sessions fits a message.
func TestLittleIsKept(t *testing.T) {
	s := NewServer(&Config{Logger: slog.New(slog.DiscardHandler)})
	defer s.Close()
	long := bytes.Repeat([]byte("x"), 100<<10)
	const sessions = 30
	for i := range byte(sessions) {
		id := bytes.Repeat([]byte{i}, 16)
		spec := &guestv1.SessionSpec{Args: [][]byte{[]byte("true"), long, []byte("last")}, Env: [][]byte{append([]byte("X="), long...)}}
		if _, err := s.Start(t.Context(), &guestv1.StartRequest{SessionId: id, Spec: spec}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
	if err != nil || len(list.GetSessions()) != sessions {
		t.Fatalf("%d sessions, %v", len(list.GetSessions()), err)
	}
	for _, one := range list.GetSessions() {
		if args := one.GetArgs(); len(args) != 2 || string(args[0]) != "true" || !bytes.HasSuffix(args[1], []byte("x...")) || proto.Size(one) > maxKeptArgs+512 {
			t.Errorf("%d arguments, %d bytes", len(args), proto.Size(one))
		}
	}
	for _, ses := range s.list() {
		if proto.Size(ses.spec) > maxKeptArgs+512 || len(ses.cmd.argv) != 0 || len(ses.cmd.env) != 0 {
			t.Errorf("a session keeps %d bytes", proto.Size(ses.spec))
		}
	}
	_, err = s.Start(t.Context(), &guestv1.StartRequest{SessionId: bytes.Repeat([]byte{0xff}, 16), Spec: &guestv1.SessionSpec{Name: strings.Repeat("n", maxSessionName+1), Args: [][]byte{[]byte("true")}}})
	if f, ok := err.(*fault); !ok || f.Reason() != reasonBadSpec {
		t.Errorf("a long name: %v", err)
	}
	if got := clipArgs([][]byte{[]byte("abc")}, 0); len(got) != 1 || string(got[0]) != "..." {
		t.Errorf("no room: %q", got)
	}
}

// TestSharesOfSessions: one caller cannot take all sessions and rings, nor push out
// the results of another.
func TestSharesOfSessions(t *testing.T) {
	s := NewServer(&Config{Logger: slog.New(slog.DiscardHandler), MaxSessions: 32, MaxEnded: 8, MaxRingsTotal: 16 << 20})
	defer s.Close()
	greedy, root := charge.Account{ID: "greedy"}, charge.Account{ID: "root", Full: true}
	n := byte(0)
	start := func(a charge.Account, args ...string) error {
		n++
		spec := &guestv1.SessionSpec{}
		for _, arg := range args {
			spec.Args = append(spec.Args, []byte(arg))
		}
		_, err := s.Start(charge.With(t.Context(), a), &guestv1.StartRequest{SessionId: bytes.Repeat([]byte{n}, 16), Spec: spec})
		return err
	}
	if err := start(root, "true"); err != nil {
		t.Fatal(err)
	}
	kept := string(bytes.Repeat([]byte{n}, 16))
	if _, err := s.Wait(t.Context(), &guestv1.WaitRequest{SessionId: []byte(kept)}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := start(greedy, "true"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Wait(t.Context(), &guestv1.WaitRequest{SessionId: bytes.Repeat([]byte{n}, 16)}); err != nil && err.(*fault).Reason() != reasonSessionGone {
			t.Fatal(err)
		}
	}
	if owner, exists := s.Owner(kept); !exists || owner != "root" {
		t.Errorf("root's result: %q, %v", owner, exists)
	}
	running := 0
	for start(greedy, "sleep", "1000") == nil {
		running++
	}
	if running != 15 {
		t.Errorf("%d sessions run of one caller, want 15", running)
	}
	for i := range 32 - 15 {
		if err := start(root, "sleep", "1000"); err != nil {
			t.Errorf("session %d of root: %v", i, err)
		}
	}
	if err := start(root, "true"); err == nil {
		t.Error("there are more than there may be")
	}
	// Of the rings.
	m := newMemory(16 * largeChunk)
	of := func(a charge.Account) (n int) {
		for m.of(a).take(largeChunk, false) != nil {
			n++
		}
		return n
	}
	if a, b := of(greedy), of(root); a != 7 || b != 9 {
		t.Errorf("the rings of one caller have %d chunks, root's %d", a, b)
	}
}
