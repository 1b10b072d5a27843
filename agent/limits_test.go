//go:build linux

package agent

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/audit"
	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// twoRoles gives uid 1000 the profile info, root everything, and others nothing.
const twoRoles = `
[roles.monitor]
peers = ["same-uid"]
profile = "info"

[roles.admin]
peers = ["root", "host-root"]
profile = "full"
`

// rolesConfig is the configuration of an agent with such a policy.
func rolesConfig(t *testing.T, text string) *Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Config{Access: access.Rules{UID: 1000}, Policy: policy.Open(path, discard()), Logger: discard()}
}

// TestAdmission: a caller has a share of the connections, who may do everything gets
// all others, and one of those who holds them all makes room for another.
func TestAdmission(t *testing.T) {
	g := newGuard(rolesConfig(t, twoRoles), "agent", discard())
	m := newAdmission(g)
	var gone []func()
	ended := 0
	fill := func(p *transport.Peer, most int) (n int) {
		for ; n < most; n++ {
			leave := m.admit(transport.AuthInfo{Peer: *p}, func() { ended++ })
			if leave == nil {
				break
			}
			gone = append(gone, leave)
		}
		return n
	}
	monitor, root, hostRoot := unixPeer(1000), unixPeer(0), vsockPeer(2, 900)
	if n := fill(monitor, 2*maxConnections); n != (maxConnections-maxConnections/16)/2 {
		t.Errorf("a caller with the profile info gets %d of %d", n, maxConnections)
	}
	if n := fill(hostRoot, maxConnections-480); n != maxConnections-480 || ended != 0 {
		t.Errorf("root of the host gets %d, %d were ended", n, ended)
	}
	if n := fill(monitor, 1); n != 0 {
		t.Error("there is a place where there is none")
	}
	if n := fill(root, 10); n != 10 || ended != 10 {
		t.Errorf("root gets %d of 10, %d were ended", n, ended)
	}
	if n := len(m.of[g.identityOf(hostRoot)]); n != maxConnections-480-10 {
		t.Errorf("%d connections of the caller with the most are left", n)
	}
	for _, leave := range gone {
		leave()
	}
	if m.places.Used() != 0 || len(m.of) != 0 {
		t.Errorf("%d places are taken in the end", m.places.Used())
	}
}

func (g *guard) identityOf(p *transport.Peer) string {
	who := g.callerBy(transport.AuthInfo{Peer: *p})
	return who.identity()
}

// records collects what an audit log writes.
type recorded struct {
	mu  sync.Mutex
	all []audit.Record
}

func (r *recorded) Write(b []byte) (int, error) {
	var one audit.Record
	if err := json.Unmarshal(b, &one); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, one)
	return len(b), nil
}

// find returns the records that a function takes.
func (r *recorded) find(is func(audit.Record) bool) (found []audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.all {
		if is(one) {
			found = append(found, one)
		}
	}
	return found
}

func audited(t *testing.T, cfg *Config) *recorded {
	t.Helper()
	r := &recorded{}
	log, err := audit.New(audit.Config{Writer: r, Logger: discard()})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Audit = log
	return r
}

// TestAuditRate: neither strangers nor a caller whose calls are refused push out the
// records of others, and how many of theirs were left out is recorded.
func TestAuditRate(t *testing.T) {
	cfg := rolesConfig(t, twoRoles)
	log := audited(t, cfg)
	_, l := serve(t, cfg, nil)
	const calls = 10 * maxRefusalRecords
	for _, uid := range []uint32{1000, 2000} {
		cc := guestv1.NewFileServiceClient(clients(t, l, unixPeer(uid))["native"])
		for range calls {
			if _, err := cc.MakeDirectory(t.Context(), &guestv1.MakeDirectoryRequest{Path: []byte("/x")}); err == nil {
				t.Fatal("it is not refused")
			}
		}
		of := func(r audit.Record) bool { return r.Peer.UID != nil && *r.Peer.UID == uid }
		leftOut := func() (n int) {
			for _, r := range log.find(func(r audit.Record) bool {
				return r.Event == audit.LeftOut && (of(r) || uid == 2000 && r.Rule == "strangers")
			}) {
				n += int(r.LeftOut)
			}
			return n
		}
		written := func() int {
			return len(log.find(func(r audit.Record) bool { return of(r) && r.Event == audit.End && r.Code != "OK" }))
		}
		wait.For(t, "all calls are in the log", func() bool { return written()+leftOut() >= calls })
		if w, n := written(), leftOut(); w+n != calls || w > calls/2 {
			t.Errorf("uid %d: %d records, %d left out, of %d", uid, w, n, calls)
		}
	}
	// Nothing that changes something is left out.
	cc := guestv1.NewFileServiceClient(clients(t, l, unixPeer(0))["native"])
	dir := t.TempDir()
	for range 5 * maxReadRecords {
		if _, err := cc.MakeDirectory(t.Context(), &guestv1.MakeDirectoryRequest{Path: []byte(dir + "/d"), Parents: true}); err != nil {
			t.Fatal(err)
		}
	}
	for event, name := range map[string]string{audit.Begin: "begin", audit.End: "end"} {
		if n := len(log.find(func(r audit.Record) bool { return r.Event == event && r.Peer.UID != nil && *r.Peer.UID == 0 })); n != 5*maxReadRecords {
			t.Errorf("%d records of %s, want %d", n, name, 5*maxReadRecords)
		}
	}
}

// TestBegin: a call that changes something has a record before it has ended; a signal
// names its process, and a call about a session the session.
func TestBegin(t *testing.T) {
	cfg := &Config{}
	log := audited(t, cfg)
	_, l := serve(t, cfg, nil)
	cc := guestv1.NewProcessServiceClient(clients(t, l, vsockPeer(2, 900))["native"])
	id := bytes.Repeat([]byte{7}, 16)
	started, err := cc.Start(t.Context(), &guestv1.StartRequest{SessionId: id, Spec: &guestv1.SessionSpec{Name: "web", Args: [][]byte{[]byte("sleep"), []byte("1000")}}})
	if err != nil {
		t.Fatal(err)
	}
	attach, err := cc.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := attach.Send(&guestv1.AttachRequest{Message: &guestv1.AttachRequest_Open{Open: &guestv1.Open{Name: "web"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := attach.Recv(); err != nil {
		t.Fatal(err)
	}
	one := func(method, event string) audit.Record {
		t.Helper()
		found := log.find(func(r audit.Record) bool { return strings.HasSuffix(r.Method, "/"+method) && r.Event == event })
		if len(found) != 1 {
			t.Fatalf("%d records %q of %s", len(found), event, method)
		}
		return found[0]
	}
	// While the call is open.
	if r := one("Attach", audit.Begin); r.SessionName != "web" || r.Call == "" || r.Code != "" {
		t.Errorf("%+v", r)
	}
	pid := started.GetSession().GetPid()
	if _, err := cc.Signal(t.Context(), &guestv1.SignalRequest{Target: &guestv1.SignalRequest_Pid{Pid: pid}, Signal: uint32(syscall.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err = attach.Recv(); err != nil {
			break
		}
	}
	if _, err := cc.Signal(t.Context(), &guestv1.SignalRequest{Target: &guestv1.SignalRequest_SessionId{SessionId: id}, Signal: 0}); status.Code(err) == codes.Unavailable {
		t.Fatal(err)
	}
	signals := log.find(func(r audit.Record) bool { return strings.HasSuffix(r.Method, "/Signal") && r.Event == audit.Begin })
	if len(signals) != 2 || signals[0].PID != pid || signals[0].Signal == nil || *signals[0].Signal != uint32(syscall.SIGKILL) ||
		signals[1].Session != strings.Repeat("07", 16) || signals[1].Signal == nil || *signals[1].Signal != 0 {
		t.Errorf("signals: %+v", signals)
	}
	wait.For(t, "both records of Attach", func() bool {
		return len(log.find(func(r audit.Record) bool { return strings.HasSuffix(r.Method, "/Attach") })) >= 2
	})
	if b, e := one("Attach", audit.Begin), one("Attach", audit.End); b.Call != e.Call || b.Call == one("Start", audit.Begin).Call {
		t.Errorf("calls %s and %s", b.Call, e.Call)
	}
}

// TestKept: what open calls keep is charged to their caller, and given back.
func TestKept(t *testing.T) {
	cfg := rolesConfig(t, "[roles.run]\npeers=['same-uid']\nprofile='ops'\n")
	var g *guard
	_, l := serve(t, cfg, func(a *Agent) {
		g = a.guard
		g.kept = charge.NewPool(256 << 10)
	})
	cc := guestv1.NewProcessServiceClient(clients(t, l, unixPeer(1000))["native"])
	start := func(id byte, n int) error {
		_, err := cc.Start(t.Context(), &guestv1.StartRequest{SessionId: bytes.Repeat([]byte{id}, 16), Spec: &guestv1.SessionSpec{Args: [][]byte{[]byte("true"), make([]byte, n)}}})
		return err
	}
	for range 3 {
		// It has a NUL byte, so that it fails after all.
		if err := start(1, 60<<10); status.Code(err) != codes.InvalidArgument {
			t.Errorf("what there is room for: %v", err)
		}
	}
	if err := start(2, 300<<10); status.Code(err) != codes.ResourceExhausted || detailOf(err).GetReason() != "too-many-calls" {
		t.Errorf("more than there is: %v", err)
	}
	if n := g.kept.Used(); n != 0 {
		t.Errorf("%d bytes are kept in the end", n)
	}
	if n := g.calls.Used(); n != 0 {
		t.Errorf("%d calls are open in the end", n)
	}
}

// TestSharesOfCalls: one caller can hold but a share of the calls, on however many
// connections, and root gets the rest.
func TestSharesOfCalls(t *testing.T) {
	cfg := rolesConfig(t, twoRoles)
	const most = 64
	calls := charge.NewPool(most)
	_, l := serve(t, cfg, func(a *Agent) { a.guard.calls = calls })
	watch := func(uid uint32) (n int) {
		for ; n < 2*most; n++ {
			cc := guestv1.NewProcessServiceClient(clients(t, l, unixPeer(uid))["native"])
			before := calls.Used()
			st, err := cc.WatchSessions(t.Context(), &guestv1.WatchSessionsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := st.Recv()
				ended <- err
			}()
			wait.For(t, "a call is open, or refused", func() bool { return calls.Used() != before || len(ended) > 0 })
			if calls.Used() > before {
				continue
			}
			if err := <-ended; status.Code(err) != codes.ResourceExhausted || detailOf(err).GetReason() != "too-many-calls" {
				t.Fatalf("call %d: %v", n, err)
			}
			break
		}
		return n
	}
	if n := watch(1000); n != (most-most/16)/2 {
		t.Errorf("a caller with the profile info has %d of %d calls", n, most)
	}
	if n := watch(0); n != most-(most-most/16)/2 {
		t.Errorf("root has %d of the others", n)
	}
}
