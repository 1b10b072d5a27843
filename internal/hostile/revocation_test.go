//go:build linux

package hostile

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// held is a call that its caller keeps open.
type held struct {
	name string
	end  func() error // waits for its end
}

// hold opens a call of every kind that can last, as a client that does nothing with
// them.
func hold(ctx context.Context, t *testing.T, g *guarded, cc grpc.ClientConnInterface, wire string) []held {
	t.Helper()
	sessions, files, forward := guestv1.NewProcessServiceClient(cc), guestv1.NewFileServiceClient(cc), guestv1.NewForwardServiceClient(cc)
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	var all []held
	stream := func(name string, st grpc.ClientStream, m any) {
		all = append(all, held{name, func() error { return toEnd(st, m) }})
	}

	shell, err := sessions.Exec(ctx)
	must("exec", err)
	must("exec", shell.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: &guestv1.Open{SessionId: id(wire + "shell"), Window: 1 << 20,
		Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("cat")}, Stdin: true}}}}))
	_, err = shell.Recv()
	must("exec", err)
	stream("a shell", shell, new(guestv1.ExecResponse))

	must("start", start(ctx, cc, wire+"sleep", "sleep", "1000"))
	waited := make(chan error, 1)
	go func() {
		_, err := sessions.Wait(ctx, &guestv1.WaitRequest{SessionId: id(wire + "sleep")})
		waited <- err
	}()
	all = append(all, held{"a wait", func() error { return <-waited }})

	watch, err := sessions.WatchSessions(ctx, &guestv1.WatchSessionsRequest{})
	must("watch", err)
	_, err = watch.Header()
	must("watch", err)
	stream("a watch", watch, new(guestv1.WatchSessionsResponse))

	upload, err := files.Upload(ctx)
	must("upload", err)
	must("upload", upload.Send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{TransferId: id(wire + "up"),
		Destination: []byte(filepath.Join(g.dir, wire+"up")), Names: [][]byte{[]byte("x")}, Options: &guestv1.TransferOptions{}}}}))
	_, err = upload.Recv()
	must("upload", err)
	stream("half an upload", upload, new(guestv1.UploadResponse))

	open, err := files.Open(ctx)
	must("open", err)
	must("open", open.Send(&guestv1.OpenRequest{Message: &guestv1.OpenRequest_Open{Open: &guestv1.OpenFile{Path: []byte(g.hosts), Read: true}}}))
	_, err = open.Recv()
	must("open", err)
	stream("an open file", open, new(guestv1.OpenResponse))

	l, err := net.Listen("unix", filepath.Join(g.dir, wire))
	must("listen here", err)
	t.Cleanup(func() { l.Close() })
	tunnel, err := forward.Dial(ctx)
	must("dial", err)
	must("dial", tunnel.Send(&guestv1.DialRequest{Message: &guestv1.DialRequest_Open{Open: &guestv1.DialOpen{Network: "unix", Address: []byte(l.Addr().String())}}}))
	_, err = tunnel.Recv()
	must("dial", err)
	stream("a tunnel", tunnel, new(guestv1.DialResponse))

	listen, err := forward.Listen(ctx, &guestv1.ListenRequest{Network: "unix", Address: []byte(filepath.Join(g.dir, wire+"l"))})
	must("listen", err)
	_, err = listen.Recv()
	must("listen", err)
	stream("a listener", listen, new(guestv1.ListenResponse))
	return all
}

// roles is a policy in which alice has one of two roles.
const roles = `
[roles.all]
profile = "full"
[roles.nothing]
[[roles.nothing.allow]]
methods = ["AgentService/Info"]
[roles.admin]
keys = ["admin"]
profile = "full"
`

// TestRightsEnd: what a change of keys or policy takes away ends, whatever call it is
// and whether or not its caller does anything, with the word that says why.
func TestRightsEnd(t *testing.T) {
	alice := publicKey(aliceSeed).String() + " alice"
	tests := []struct {
		name          string
		hosts, policy string
		change        func(t *testing.T, g *guarded, admin guestv1.ControlServiceClient)
		code          codes.Code
		word          string
		drops         bool // the connection too
	}{
		{"role changed in the file of keys", "role=all " + alice, roles, func(_ *testing.T, g *guarded, _ guestv1.ControlServiceClient) {
			g.write(g.hosts, "role=nothing "+alice)
		}, codes.PermissionDenied, "denied", false},
		{"role changed by a caller", "role=all " + alice, roles, func(t *testing.T, _ *guarded, admin guestv1.ControlServiceClient) {
			_, err := admin.AddHostKey(t.Context(), &guestv1.AddHostKeyRequest{Key: &guestv1.HostKey{PublicKey: publicKey(aliceSeed).String(), Name: "alice", Roles: []string{"nothing"}}})
			if err != nil {
				t.Fatal(err)
			}
		}, codes.PermissionDenied, "denied", false},
		{"role lowered in the policy", "role=nothing " + alice, "[roles.nothing]\nprofile='full'\n[roles.admin]\nkeys=['admin']\nprofile='full'\n", func(_ *testing.T, g *guarded, _ guestv1.ControlServiceClient) {
			g.write(g.policy, roles)
		}, codes.PermissionDenied, "denied", false},
		{"a policy where none was", alice, "", func(_ *testing.T, g *guarded, _ guestv1.ControlServiceClient) {
			g.write(g.policy, roles)
		}, codes.PermissionDenied, "denied", false},
		{"denied in the policy", "role=all " + alice, roles, func(_ *testing.T, g *guarded, _ guestv1.ControlServiceClient) {
			g.write(g.policy, roles+"[[roles.all.deny]]\nmethods=['*']\n")
		}, codes.PermissionDenied, "denied", false},
		{"max_time lowered", "role=all " + alice, roles, func(_ *testing.T, g *guarded, _ guestv1.ControlServiceClient) {
			g.write(g.policy, "[roles.all]\nprofile='full'\nmax_time='1ms'\n")
		}, codes.ResourceExhausted, "budget", false},
		{"key revoked by a caller", alice, "", func(t *testing.T, _ *guarded, admin guestv1.ControlServiceClient) {
			if _, err := admin.RemoveHostKey(t.Context(), &guestv1.RemoveHostKeyRequest{Fingerprint: publicKey(aliceSeed).Fingerprint()}); err != nil {
				t.Fatal(err)
			}
		}, codes.Unauthenticated, "refused", true},
		{"key revoked in the file", alice, "", func(_ *testing.T, g *guarded, _ guestv1.ControlServiceClient) {
			g.write(g.hosts, "revoked "+alice)
		}, codes.Unauthenticated, "refused", true},
		{"line taken out of the file", alice + "\n" + publicKey(bobSeed).String() + "\n", "", func(_ *testing.T, g *guarded, _ guestv1.ControlServiceClient) {
			g.write(g.hosts, publicKey(bobSeed).String()+"\n")
		}, codes.Unauthenticated, "refused", true},
		{"file of keys removed", alice, "", func(_ *testing.T, g *guarded, _ guestv1.ControlServiceClient) {
			g.write(g.hosts, "")
		}, codes.Unauthenticated, "refused", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := guard(t, tt.hosts, tt.policy)
			admin, _ := g.client(adminSeed, "native")
			var all []held
			type idle struct {
				wire  string
				ended <-chan struct{}
			}
			var conns []idle
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for _, wire := range wires {
				cc, _ := g.client(aliceSeed, wire)
				for _, h := range hold(ctx, t, g, cc, wire) {
					all = append(all, held{wire + ", " + h.name, h.end})
				}
				silent, ended := g.client(aliceSeed, wire)
				if _, err := guestv1.NewProcessServiceClient(silent).ListSessions(ctx, &guestv1.ListSessionsRequest{}); err != nil {
					t.Fatal(err)
				}
				conns = append(conns, idle{wire, ended})
			}
			tt.change(t, g, guestv1.NewControlServiceClient(admin))
			for _, h := range all {
				wantWord(t, h.name, h.end(), tt.code, tt.word)
			}
			for _, c := range conns {
				if !tt.drops {
					continue
				}
				select {
				case <-c.ended:
				case <-ctx.Done():
					t.Errorf("%s: a connection with no call stays open", c.wire)
				}
			}
		})
	}
}

// TestRightsEndUnread: a caller that does not read what it is sent loses its session
// all the same.
func TestRightsEndUnread(t *testing.T) {
	g := guard(t, publicKey(aliceSeed).String()+" alice", "")
	admin, _ := g.client(adminSeed, "native")
	sessions := guestv1.NewProcessServiceClient(admin)
	for i, wire := range wires {
		cc, _ := g.client(aliceSeed, wire)
		st, err := guestv1.NewProcessServiceClient(cc).Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// As much as there is, and more than the connection carries unread.
		if err := st.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: &guestv1.Open{SessionId: id(wire), Window: 1 << 40,
			Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("yes")}}}}}); err != nil {
			t.Fatal(err)
		}
		owned := func() (owned bool) {
			list, err := sessions.ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range list.GetSessions() {
				owned = owned || string(s.GetSessionId()) == string(id(wire)) && s.GetHasOwner()
			}
			return owned
		}
		wait.For(t, "the session has an owner", owned)
		g.write(g.hosts, fmt.Sprintf("role=info %s alice%d\n", publicKey(aliceSeed), i))
		wait.For(t, wire+": the session has lost its owner", func() bool { return !owned() })
		wantWord(t, wire, toEnd(st, new(guestv1.ExecResponse)), codes.PermissionDenied, "denied")
		g.write(g.hosts, publicKey(aliceSeed).String()+" alice")
		wait.For(t, "the role is back", func() bool { return start(t.Context(), cc, "true"+wire, "true") == nil })
	}
}

// TestStaleStream: a stream that was opened with rights, and is used after they have
// gone, has none.
func TestStaleStream(t *testing.T) {
	g := guard(t, publicKey(aliceSeed).String()+" alice", "")
	for _, wire := range wires {
		g.write(g.hosts, publicKey(aliceSeed).String()+" alice")
		cc, _ := g.client(aliceSeed, wire)
		wait.For(t, "the key is known", func() bool { return start(t.Context(), cc, wire+"before", "true") == nil })
		st, err := guestv1.NewProcessServiceClient(cc).Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		g.write(g.hosts, "role=info "+publicKey(aliceSeed).String()+" alice")
		wait.For(t, "the role is lowered", func() bool { return start(t.Context(), cc, wire+"after", "true") != nil })
		mark := filepath.Join(g.dir, "mark")
		_ = st.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: &guestv1.Open{SessionId: id(wire + "stale"), Window: 1 << 20,
			Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("touch"), []byte(mark)}}}}})
		wantWord(t, wire, toEnd(st, new(guestv1.ExecResponse)), codes.PermissionDenied, "denied")
		if _, err := os.Stat(mark); err == nil {
			t.Errorf("%s: the program has run", wire)
		}
	}
}
