//go:build linux

package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/policy"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestMaxTime: the budget of time ends a call of either kind, and a program that
// outlives its call.
func TestMaxTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.toml")
	if err := os.WriteFile(path, []byte("[roles.quick]\npeers=['host-root']\nprofile='full'\nmax_time='300ms'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, l := serve(t, &Config{Policy: policy.Open(path, discard())}, nil)
	id := byte(0)
	for wire, cc := range clients(t, l, vsockPeer(2, 900)) {
		id++
		t.Run(wire, func(t *testing.T) { overTime(t, cc, bytes.Repeat([]byte{id}, 16)) })
	}
}

func overTime(t *testing.T, cc grpc.ClientConnInterface, session []byte) {
	sessions := guestv1.NewProcessServiceClient(cc)
	wantBudget := func(what string, err error) {
		t.Helper()
		if d := detailOf(err); status.Code(err) != codes.ResourceExhausted || d.GetReason() != "budget" || !strings.Contains(d.GetRemedy(), "max_time") {
			t.Errorf("%s: %v, %v", what, err, d)
		}
	}
	watch, err := sessions.WatchSessions(t.Context(), &guestv1.WatchSessionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	wantBudget("a stream", err)

	// The program asks for an hour.
	for {
		_, err = sessions.Start(t.Context(), &guestv1.StartRequest{SessionId: session, Spec: &guestv1.SessionSpec{
			Args: [][]byte{[]byte("sleep"), []byte("3600")}, TimeoutMillis: 3_600_000}})
		if status.Code(err) != codes.ResourceExhausted {
			break // on a busy machine to start it may take the time that a call has
		}
		wantBudget("a call that starts a program", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = sessions.Wait(t.Context(), &guestv1.WaitRequest{SessionId: session})
	for status.Code(err) == codes.ResourceExhausted {
		// Its own time may not be over yet when that of the call is.
		wantBudget("a unary call", err)
		_, err = sessions.Wait(t.Context(), &guestv1.WaitRequest{SessionId: session})
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := sessions.ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.GetSessions() {
		if bytes.Equal(s.GetSessionId(), session) {
			if !s.GetExit().GetTimedOut() {
				t.Errorf("the program ended with %v, want its time to be over", s.GetExit())
			}
			return
		}
	}
	t.Errorf("no session %x in %v", session, list)
}
