//go:build linux

package hostile

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const secretWord = "hunter2"

// sleeper starts a program with a secret among its arguments, in a named session.
func sleeper(t *testing.T, cc grpc.ClientConnInterface, session, name string) *guestv1.SessionInfo {
	t.Helper()
	r, err := guestv1.NewProcessServiceClient(cc).Start(t.Context(), &guestv1.StartRequest{SessionId: id(session), Spec: &guestv1.SessionSpec{
		Name: name, Args: [][]byte{[]byte("sh"), []byte("-c"), []byte("sleep 1000; :"), []byte(secretWord)}}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetSession()
}

// seen are the arguments of a session, and of its process, that a caller sees.
func seen(t *testing.T, cc grpc.ClientConnInterface, session string) (args, ps string) {
	t.Helper()
	sessions := guestv1.NewProcessServiceClient(cc)
	join := func(words [][]byte) string { return string(bytes.Join(words, []byte(" "))) }
	list, err := sessions.ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range list.GetSessions() {
		if bytes.Equal(s.GetSessionId(), id(session)) {
			args, found = join(s.GetArgs()), true
		}
	}
	if !found {
		t.Errorf("session %s is not listed", session)
	}
	st, err := sessions.ListProcesses(t.Context(), &guestv1.ListProcessesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		r, err := st.Recv()
		if err != nil {
			return args, ps
		}
		for _, p := range r.GetProcesses() {
			if bytes.Equal(p.GetSessionId(), id(session)) {
				ps += join(p.GetArgs())
			}
		}
	}
}

// TestOthersSessions: of what others have started, a caller with few rights sees no
// arguments, and touches nothing; who may do everything, or has a rule that says so,
// does.
func TestOthersSessions(t *testing.T) {
	alice, bob := publicKey(aliceSeed).String()+" alice\n", publicKey(bobSeed).String()+" bob\n"
	for _, tt := range []struct {
		name, hosts, policy   string
		sees, attaches, kills bool
	}{
		{"profile info", "role=ops " + alice + "role=info " + bob, "", false, false, false},
		{"profile ops", "role=ops " + alice + "role=ops " + bob, "", false, false, false},
		{"profile full", "role=ops " + alice + "role=full " + bob, "", true, true, true},
		{"everything", alice + bob, "", true, true, true},
		{"programs of its own", alice + bob, "[roles.a]\nkeys=['alice']\nprofile='ops'\n[roles.b]\nkeys=['bob']\nprofile='info'\n[[roles.b.allow]]\nargs=[['sh','...']]\n", false, false, false},
		{"a rule for one method", alice + bob, "[roles.a]\nkeys=['alice']\nprofile='ops'\n[roles.b]\nkeys=['bob']\nprofile='info'\n[[roles.b.allow]]\nmethods=['ProcessService/Attach']\n", false, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := guard(t, tt.hosts, tt.policy)
			for _, wire := range wires {
				aliceCC, _ := g.client(aliceSeed, wire)
				bobCC, _ := g.client(bobSeed, wire)
				bob := guestv1.NewProcessServiceClient(bobCC)
				watch, err := bob.WatchSessions(t.Context(), &guestv1.WatchSessionsRequest{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := watch.Header(); err != nil {
					t.Fatal(err)
				}
				info := sleeper(t, aliceCC, wire, "job")
				event, err := watch.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Contains(event.String(), secretWord); got != tt.sees {
					t.Errorf("%s, watch: %v", wire, event)
				}
				args, ps := seen(t, bobCC, wire)
				if strings.Contains(args, secretWord) != tt.sees || strings.Contains(ps, secretWord) != tt.sees {
					t.Errorf("%s: bob sees %q and %q", wire, args, ps)
				}
				if args, ps := seen(t, aliceCC, wire); !strings.Contains(args, secretWord) || !strings.Contains(ps, secretWord) {
					t.Errorf("%s: alice sees %q and %q of her own", wire, args, ps)
				}
				check := func(what string, err error, may bool) {
					t.Helper()
					if may && err != nil || !may && reasonOf(err) != "foreign-session" && reasonOf(err) != "denied" && reasonOf(err) != "no-session" {
						t.Errorf("%s, %s: %v", wire, what, err)
					}
				}
				attach := func(open *guestv1.Open) error {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					st, err := bob.Attach(ctx)
					if err != nil {
						return err
					}
					_ = st.Send(&guestv1.AttachRequest{Message: &guestv1.AttachRequest_Open{Open: open}})
					_, err = st.Recv()
					return err
				}
				for _, role := range []guestv1.Role{guestv1.Role_ROLE_OBSERVER, guestv1.Role_ROLE_OWNER} {
					check("attach by id", attach(&guestv1.Open{SessionId: id(wire), Role: role, TakeOver: true}), tt.attaches)
					check("attach by name", attach(&guestv1.Open{Name: "job", Role: role, TakeOver: true}), tt.attaches)
				}
				check("start of the same id", start(t.Context(), bobCC, wire, "sh"), tt.attaches)
				_, err = bob.Signal(t.Context(), &guestv1.SignalRequest{Target: &guestv1.SignalRequest_SessionId{SessionId: id(wire)}})
				check("signal", err, tt.kills)
				_, err = bob.Signal(t.Context(), &guestv1.SignalRequest{Target: &guestv1.SignalRequest_Pid{Pid: info.GetPid()}})
				check("signal by pid", err, tt.kills)
				_, err = bob.Remove(t.Context(), &guestv1.RemoveRequest{SessionId: id(wire), Force: true})
				check("remove", err, tt.kills)
				// The session of alice goes on, unless bob may end it.
				_, err = guestv1.NewProcessServiceClient(aliceCC).Remove(t.Context(), &guestv1.RemoveRequest{SessionId: id(wire), Force: true})
				if err != nil {
					t.Errorf("%s: alice: %v", wire, err)
				}
			}
		})
	}
}

// TestOthersNames: a name that one caller has given to a session is not taken from
// another.
func TestOthersNames(t *testing.T) {
	g := guard(t, "role=ops "+publicKey(aliceSeed).String()+" alice\nrole=ops "+publicKey(bobSeed).String()+" bob\n", "")
	aliceCC, _ := g.client(aliceSeed, "native")
	bobCC, _ := g.client(bobSeed, "native")
	sleeper(t, aliceCC, "a", "job")
	sleeper(t, bobCC, "b", "job")
	for want, cc := range map[string]grpc.ClientConnInterface{"a": aliceCC, "b": bobCC} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		st, err := guestv1.NewProcessServiceClient(cc).Attach(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = st.Send(&guestv1.AttachRequest{Message: &guestv1.AttachRequest_Open{Open: &guestv1.Open{Name: "job", Role: guestv1.Role_ROLE_OBSERVER}}})
		if r, err := st.Recv(); err != nil || !bytes.Equal(r.GetOpened().GetSession().GetSessionId(), id(want)) {
			t.Errorf("%s: %v, %v", want, r, err)
		}
	}
}

// TestRightsLessened: a caller that could see everything, and cannot any more, does
// not go on seeing it in a call that it keeps open.
func TestRightsLessened(t *testing.T) {
	alice := publicKey(aliceSeed).String() + " alice\n"
	g := guard(t, alice, "")
	admin, _ := g.client(adminSeed, "native")
	sleeper(t, admin, "admin", "")
	for _, wire := range wires {
		g.write(g.hosts, alice)
		cc, _ := g.client(aliceSeed, wire)
		wait.For(t, "alice may do everything", func() bool {
			args, _ := seen(t, cc, "admin")
			return args != ""
		})
		sessions := guestv1.NewProcessServiceClient(cc)
		watch, err := sessions.WatchSessions(t.Context(), &guestv1.WatchSessionsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Header(); err != nil {
			t.Fatal(err)
		}
		stale, err := sessions.Attach(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		g.write(g.hosts, "role=ops "+alice)
		wantWord(t, wire+", a watch", toEnd(watch, new(guestv1.WatchSessionsResponse)), codes.PermissionDenied, "denied")
		_ = stale.Send(&guestv1.AttachRequest{Message: &guestv1.AttachRequest_Open{Open: &guestv1.Open{SessionId: id("admin"), Role: guestv1.Role_ROLE_OBSERVER}}})
		// The agent may have seen the call begin with the rights of before, or not.
		if err := toEnd(stale, new(guestv1.AttachResponse)); reasonOf(err) != "denied" && reasonOf(err) != "foreign-session" {
			t.Errorf("%s, attach: %v, want denied or foreign-session", wire, err)
		}
	}
}

// TestOthersTransfers: a caller that makes a transfer's id of another's command line
// neither ends that transfer nor goes on with its files.
func TestOthersTransfers(t *testing.T) {
	g := guard(t, "role=ops "+publicKey(aliceSeed).String()+" alice\nrole=ops "+publicKey(bobSeed).String()+" bob\n", "")
	upload := func(cc grpc.ClientConnInterface) guestv1.FileService_UploadClient {
		st, err := guestv1.NewFileServiceClient(cc).Upload(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = st.Send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{TransferId: id("same"),
			Destination: []byte(filepath.Join(g.dir, "tree")), Names: [][]byte{[]byte("")}, Options: &guestv1.TransferOptions{}, Resume: true}}})
		if r, err := st.Recv(); err != nil || r.GetReady() == nil {
			t.Fatalf("%v, %v", r, err)
		}
		return st
	}
	part := func(st guestv1.FileService_UploadClient) {
		_ = st.Send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_File{File: &guestv1.FileStart{Entry: &guestv1.Entry{Number: 1, Path: []byte("file"), Mode: 0o100644, Size: 8}}}})
		_ = st.Send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Piece{Piece: &guestv1.Piece{Data: []byte("half")}}})
	}
	parts := func(size int64) int {
		names, err := filepath.Glob(filepath.Join(g.dir, "tree", ".vsockrpc-*"))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, name := range names {
			if fi, err := os.Stat(name); err == nil && fi.Size() == size {
				n++
			}
		}
		return n
	}
	for _, wire := range wires {
		if err := os.RemoveAll(filepath.Join(g.dir, "tree")); err != nil {
			t.Fatal(err)
		}
		aliceCC, _ := g.client(aliceSeed, wire)
		bobCC, _ := g.client(bobSeed, wire)
		hers := upload(aliceCC)
		part(hers)
		wait.For(t, "half of her file is there", func() bool { return parts(4) == 1 })
		his := upload(bobCC)
		part(his)
		wait.For(t, "half of his file is there, beside hers", func() bool { return parts(4) == 2 })
		// Hers was neither ended nor locked: another of her connections takes it over.
		again, _ := g.client(aliceSeed, wire)
		upload(again)
		wantWord(t, wire+", taken over by herself", toEnd(hers, new(guestv1.UploadResponse)), codes.Aborted, "taken-over")
		_ = his.Send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Piece{Piece: &guestv1.Piece{Offset: 4, Data: []byte("more")}}})
		wait.For(t, "his goes on", func() bool { return parts(8) == 1 })
	}
}
