//go:build linux

package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/audit"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/internal/carriers"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

func seedKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// The keys of the grid.
var (
	agentKey   = seedKey(1)
	fullKey    = seedKey(2)
	opsKey     = seedKey(3)
	infoKey    = seedKey(4)
	wrongKey   = seedKey(5)
	revokedKey = seedKey(6)
	// otherGuestKey is that of another guest's agent, which hosts know.
	otherGuestKey = seedKey(9)
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func gridHosts(t *testing.T) *access.Hosts {
	t.Helper()
	line := func(key ed25519.PrivateKey) string { return keys.PublicOf(key).String() + "\n" }
	h, err := access.NewHosts(&access.HostsConfig{Logger: discard(), StateFile: filepath.Join(t.TempDir(), "hosts"), Fixed: map[string][]byte{
		"test": []byte(line(fullKey) + "role=ops " + line(opsKey) + "role=info " + line(infoKey) + line(revokedKey) + "revoked " + line(revokedKey)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// secureClients returns a client for each wire that shows a key, or none, in TLS.
func secureClients(t *testing.T, dial func(context.Context) (net.Conn, error), tc *tls.Config) map[string]grpc.ClientConnInterface {
	t.Helper()
	native := rpc.NewClient(dial, &rpc.ClientConfig{TLS: tc, Logger: discard()})
	t.Cleanup(func() { native.Close() })
	creds := insecure.NewCredentials()
	if tc != nil {
		creds = credentials.NewTLS(tc)
	}
	stock, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stock.Close() })
	return map[string]grpc.ClientConnInterface{"grpc": stock, "native": native}
}

func clientTLS(t *testing.T, key ed25519.PrivateKey) *tls.Config {
	t.Helper()
	tc, err := keys.ClientConfig(key, func(p keys.Public) error {
		if p != keys.PublicOf(agentKey) {
			return errors.New("not the agent's key")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tc
}

// probe calls a method with nothing in its request and says how far it came:
// what is not the guard's answer is the service's.
func probe(ctx context.Context, cc grpc.ClientConnInterface, method string, patience time.Duration) codes.Code {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err == nil {
		err = stream.SendMsg(&emptypb.Empty{})
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err == nil || errors.Is(err, io.EOF) {
		// Services that stream until they are cancelled have passed.
		done := make(chan error, 1)
		go func() { done <- stream.RecvMsg(&emptypb.Empty{}) }()
		select {
		case err = <-done:
		case <-time.After(patience):
			cancel()
			<-done
			return codes.OK
		}
	}
	var detail *guestv1.ErrorDetail
	for _, d := range status.Convert(err).Details() {
		detail, _ = d.(*guestv1.ErrorDetail)
	}
	switch detail.GetReason() {
	case "refused":
		return codes.Unauthenticated
	case "denied", "other-face":
		return codes.PermissionDenied
	}
	if detail == nil && status.Code(err) == codes.Unavailable {
		return codes.Unavailable // it did not even connect
	}
	return codes.OK
}

// TestGrid: {no key, wrong key, another guest's key, revoked, the keys of each
// profile} x every method x {a peer known by its CID, the VMM's socket, a Unix
// socket} x both wires; in the lab (VSOCKRPC_LAB) over native vsock. No peer is
// trusted by its connection.
func TestGrid(t *testing.T) {
	callers := []struct {
		name    string
		tls     *tls.Config
		profile access.Profile
		trusted bool
	}{
		{"no key", nil, access.ProfileNone, false},
		{"TLS without a key", clientTLS(t, nil), access.ProfileNone, false},
		{"wrong key", clientTLS(t, wrongKey), access.ProfileNone, false},
		{"another guest's key", clientTLS(t, otherGuestKey), access.ProfileNone, false},
		{"the agent's own key", clientTLS(t, agentKey), access.ProfileNone, false},
		{"revoked key", clientTLS(t, revokedKey), access.ProfileNone, false},
		{"info", clientTLS(t, infoKey), access.ProfileInfo, true},
		{"ops", clientTLS(t, opsKey), access.ProfileOps, true},
		{"full", clientTLS(t, fullKey), access.ProfileFull, true},
	}
	vmm := vmmtest.New(t)
	mux, err := vmm.Listen(transport.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "s")
	unixAddr := transport.UnixAddr(sock)
	unix, err := transport.Listen(t.Context(), unixAddr, nil)
	if err != nil {
		t.Fatal(err)
	}
	muxAddr, err := transport.ParseAddr(vmm.Addr(transport.AgentPort))
	if err != nil {
		t.Fatal(err)
	}
	// RequireKeys, since the test's own user would be trusted on a Unix socket.
	a, l := serve(t, &Config{Key: agentKey, Hosts: gridHosts(t), RequireKeys: true, Access: access.Rules{UID: ownUID, AllowCIDs: []uint32{transport.CIDLocal}}}, nil)
	for _, more := range []net.Listener{mux, unix} {
		go a.Serve(more)
	}
	dials := map[string]func(context.Context) (net.Conn, error){
		"vsock":     func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, vsockPeer(2, hybridPort)) },
		"vsock-mux": func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, muxAddr, nil) },
		"unix":      func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, unixAddr, nil) },
	}
	if os.Getenv(carriers.LabEnv) != "" { // the others are quicker outside
		dials = map[string]func(context.Context) (net.Conn, error){"native vsock": nativeVsock(t, a)}
	}
	for carrier, dial := range dials {
		for _, who := range callers {
			for wire, cc := range secureClients(t, dial, who.tls) {
				for service, info := range a.GetServiceInfo() {
					for _, m := range info.Methods {
						method := "/" + service + "/" + m.Name
						want := codes.OK
						switch class := access.ClassOf(method); {
						case class.Anybody():
						case !who.trusted:
							want = codes.Unauthenticated
						case !who.profile.Has(class):
							want = codes.PermissionDenied
						}
						patience := time.Minute
						if want == codes.OK {
							// Some stream until they are cancelled. What would
							// change something is not tried.
							if patience = 20 * time.Millisecond; carrier != "unix" && carrier != "native vsock" || access.ClassOf(method) == access.Use {
								continue
							}
						}
						if got := probe(t.Context(), cc, method, patience); got != want {
							t.Errorf("%s, %s, %s, %s: %v, want %v", carrier, who.name, wire, method, got, want)
						}
					}
				}
			}
		}
	}
}

// nativeVsock has a serve on native vsock, and returns how to reach it.
func nativeVsock(t *testing.T, a *Agent) carriers.Dial {
	t.Helper()
	all := carriers.All(t)
	l, dial := all[slices.IndexFunc(all, func(c carriers.Carrier) bool { return c.Name == "vsock" })].Listen(t)
	go a.Serve(l)
	return dial
}

// TestOtherGuest: a client that means another guest sends it nothing.
func TestOtherGuest(t *testing.T) {
	_, l := serve(t, &Config{Key: otherGuestKey, Hosts: gridHosts(t)}, nil)
	dial := func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, vsockPeer(2, 900)) }
	for wire, cc := range secureClients(t, dial, clientTLS(t, fullKey)) {
		_, err := guestv1.NewAgentServiceClient(cc).Info(t.Context(), &guestv1.InfoRequest{})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not the agent's key") {
			t.Errorf("%s: %v", wire, err)
		}
	}
}

// TestRevocation: keys come and go while connections stay open.
func TestRevocation(t *testing.T) {
	hosts := gridHosts(t)
	_, l := serve(t, &Config{Key: agentKey, Hosts: hosts, RequireKeys: true, RecheckInterval: 5 * time.Millisecond}, nil)
	dial := func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, vsockPeer(2, 900)) }
	for i, wire := range []string{"grpc", "native"} {
		newKey := seedKey(byte(20 + i))
		pub := keys.PublicOf(newKey)
		cc := secureClients(t, dial, clientTLS(t, newKey))[wire]
		list := func() error {
			_, err := guestv1.NewProcessServiceClient(cc).ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
			return err
		}
		err := list()
		if status.Code(err) != codes.Unauthenticated || !strings.Contains(detailOf(err).GetRemedy(), "host-ctl enroll --key '"+pub.String()+"'") {
			t.Errorf("%s, before: %v, %v", wire, err, detailOf(err))
		}
		admin := guestv1.NewControlServiceClient(secureClients(t, dial, clientTLS(t, fullKey))[wire])
		added, err := admin.AddHostKey(t.Context(), &guestv1.AddHostKeyRequest{Key: &guestv1.HostKey{PublicKey: pub.String(), Name: "new"}})
		if err != nil || !added.GetDurable() || added.GetAgentPublicKey() != keys.PublicOf(agentKey).String() {
			t.Fatalf("%s: add: %v, %v", wire, added, err)
		}
		if err := list(); err != nil {
			t.Errorf("%s, added: %v", wire, err)
		}
		watch, err := guestv1.NewProcessServiceClient(cc).WatchSessions(t.Context(), &guestv1.WatchSessionsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if err := list(); err != nil {
			t.Errorf("%s, beside a stream: %v", wire, err)
		}
		if _, err := admin.RemoveHostKey(t.Context(), &guestv1.RemoveHostKeyRequest{Fingerprint: pub.Fingerprint()}); err != nil {
			t.Fatal(err)
		}
		if err := list(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s, revoked: %v", wire, err)
		}
		if _, err := watch.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s, a stream that was open: %v", wire, err)
		}
	}
}

// TestPolicyAndAudit: what is in a request decides, over both wires, and is
// recorded.
func TestPolicyAndAudit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.toml")
	text := "[roles.a]\nkeys=['*']\nmax_bytes='64K'\n[[roles.a.allow]]\nargs=[['echo','...']]\n[[roles.a.allow]]\nmethods=['ProcessService/ListSessions']\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := audit.New(audit.Config{Path: filepath.Join(dir, "audit")})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	_, l := serve(t, &Config{Key: agentKey, Hosts: gridHosts(t), Policy: policy.Open(path, discard()), Audit: log}, nil)
	dial := func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, vsockPeer(2, hybridPort)) }
	start := func(cc grpc.ClientConnInterface, id byte, args ...string) error {
		spec := &guestv1.SessionSpec{}
		for _, a := range args {
			spec.Args = append(spec.Args, []byte(a))
		}
		_, err := guestv1.NewProcessServiceClient(cc).Start(t.Context(), &guestv1.StartRequest{SessionId: bytes.Repeat([]byte{id}, 16), Spec: spec})
		return err
	}
	id := byte(0)
	root := clients(t, l, vsockPeer(2, 900))
	for wire, cc := range secureClients(t, dial, clientTLS(t, wrongKey)) {
		if err := start(cc, 99, "echo", "x"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s, wrong key: %v", wire, err)
		}
	}
	for wire, cc := range secureClients(t, dial, clientTLS(t, seedKey(2))) {
		id++
		if err := start(cc, id, "echo", "--password", "hunter2"); err != nil {
			t.Errorf("%s, allowed: %v", wire, err)
		}
		err := start(cc, id+50, "id")
		if status.Code(err) != codes.PermissionDenied || detailOf(err).GetReason() != "denied" || detailOf(err).GetRemedy() == "" {
			t.Errorf("%s, denied: %v", wire, err)
		}
		big := strings.Repeat("x", 70<<10)
		if err := start(cc, id+60, "echo", big); status.Code(err) != codes.ResourceExhausted || detailOf(err).GetReason() != "budget" {
			t.Errorf("%s, beyond the budget: %v", wire, err)
		}
		wait := func(id byte) error {
			_, err := guestv1.NewProcessServiceClient(cc).Wait(t.Context(), &guestv1.WaitRequest{SessionId: bytes.Repeat([]byte{id}, 16)})
			return err
		}
		if err := wait(id); err != nil {
			t.Errorf("%s, its own session: %v", wire, err)
		}
		if err := wait(200); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s, a session of nobody: %v", wire, err)
		}
	}
	for wire, cc := range root {
		if err := start(cc, 120, "echo"); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "no role") {
			t.Errorf("%s, the host's root has no role here: %v", wire, err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "audit"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"code":"OK"`, `"code":"PermissionDenied","reason":"denied"`, `"code":"Unauthenticated","reason":"refused"`, `"reason":"budget"`,
		keys.PublicOf(seedKey(2)).Fingerprint(), `"policy":"roles.a.allow[0]"`, `"args":["echo","--password","[redacted]"]`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the audit has no %s:\n%s", want, data)
		}
	}
	if strings.Contains(string(data), "hunter2") {
		t.Error("the audit has a password")
	}
}

// TestForeignSessions: whoever may start one program does not get at the
// session of another by naming it.
func TestForeignSessions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.toml")
	os.WriteFile(path, []byte("[roles.a]\nkeys=['*']\n[[roles.a.allow]]\nargs=[['echo']]\n[roles.root]\npeers=['host-root']\nprofile='full'\n"), 0o600)
	_, l := serve(t, &Config{Key: agentKey, Hosts: gridHosts(t), Policy: policy.Open(path, discard())}, nil)
	root := guestv1.NewProcessServiceClient(client(t, l, vsockPeer(2, 900)))
	id := bytes.Repeat([]byte{7}, 16)
	if _, err := root.Start(t.Context(), &guestv1.StartRequest{SessionId: id, Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("cat")}, Stdin: true}}); err != nil {
		t.Fatal(err)
	}
	for wire, cc := range secureClients(t, func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, vsockPeer(2, hybridPort)) }, clientTLS(t, fullKey)) {
		exec, err := guestv1.NewProcessServiceClient(cc).Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		exec.Send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Open{Open: &guestv1.Open{SessionId: id, TakeOver: true, Role: guestv1.Role_ROLE_OWNER,
			Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("echo")}}}}})
		if _, err := exec.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", wire, err)
		}
	}
	if _, err := root.Remove(t.Context(), &guestv1.RemoveRequest{SessionId: id, Force: true}); err != nil {
		t.Error(err)
	}
}
