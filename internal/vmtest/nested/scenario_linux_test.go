package nested

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/vmtest"
	"github.com/vsockrpc/vsockrpc/transport"
)

const (
	agentPort = 1000
	freePort  = 1999 // nobody listens there
	nobody    = 65534
)

// seconds is what "within seconds, no hang" means.
const seconds = 10 * time.Second

// A scenario is a host with one guest that has booted.
type scenario struct {
	inner vmtest.Inner
	guest *guest
	host  host
}

func (s *scenario) addr(port uint32) transport.Addr { return transport.VsockAddr(s.inner.CID, port) }

// TestGuest is the life of a guest, from before it is switched on until after
// it is switched off. Its parts run in order, on the same guest: most of the
// time goes by while it boots.
func TestGuest(t *testing.T) {
	inner := loadInner(t)
	s := &scenario{
		inner: inner,
		guest: newGuest(t, inner),
		host:  host{hostCtl: inner.HostCtl, guest: fmt.Sprint(inner.CID)},
	}
	if got := dialKind(t, s.addr(agentPort), dialTry); got != transport.KindNoSuchCID {
		t.Errorf("dial before the guest is there: %v, want %v", got, transport.KindNoSuchCID)
	}
	waiting := s.host.start(t, "wait", s.host.guest, "--timeout", (3 * bootLimit).String())
	checkKinds(t, inner, s.guest.boot(t, s.addr(agentPort)))
	if code, stderr := waiting.wait(t, bootLimit); code != 0 {
		t.Fatalf("host-ctl wait: exit code %d: %s", code, stderr)
	}
	for _, part := range []struct {
		name string
		test func(*scenario, *testing.T)
	}{
		{"Info", (*scenario).info},
		{"Exec", (*scenario).exec},
		{"Peer", (*scenario).peer},
		{"NotListening", (*scenario).notListening},
		{"Unprivileged", (*scenario).unprivileged},
		{"Pause", (*scenario).pause},
		{"Snapshot", (*scenario).snapshot},
		{"Killed", (*scenario).killed},
		{"PowerOff", (*scenario).powerOff},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(s, t) })
	}
}

// info is of host-ctl info -o json what the tests look at.
type info struct {
	Access struct {
		Trusted bool   `json:"trusted"`
		Rule    string `json:"rule"`
		Remedy  string `json:"remedy"`
	} `json:"access"`
	BootID string `json:"boot_id"`
	CID    uint32 `json:"cid"`
	OS     struct {
		Release string `json:"kernel_release"`
	} `json:"os"`
}

func (s *scenario) infoAs(t *testing.T, user uint32) info {
	t.Helper()
	r := s.host.call(t, call{args: []string{"info", s.host.guest, "-o", "json"}, user: user})
	var i info
	if err := json.Unmarshal([]byte(r.stdout), &i); err != nil || r.code != 0 {
		t.Fatalf("host-ctl info: %v; %v", err, r)
	}
	return i
}

func (s *scenario) info(t *testing.T) {
	i := s.infoAs(t, 0)
	if !i.Access.Trusted || i.Access.Rule != "host-root" {
		t.Errorf("root of the host is not trusted: %+v", i.Access)
	}
	if i.CID != s.inner.CID || i.BootID == "" || i.OS.Release == "" {
		t.Errorf("info = %+v, want CID %d, a boot id and a kernel release", i, s.inner.CID)
	}
}

func (s *scenario) exec(t *testing.T) {
	for _, tt := range []struct {
		command        []string
		stdout, stderr string // "*" is anything
		code           int
	}{
		{[]string{"id", "-u"}, "0\n", "", 0},
		{[]string{"sh", "-c", "echo out; echo err >&2; exit 7"}, "out\n", "err\n", 7},
		{[]string{"sh", "-c", "kill -9 $$"}, "", "*", 128 + 9},
		{[]string{"/no/such/program"}, "", "*", 127},
		{[]string{"/etc/passwd"}, "", "*", 126},
	} {
		r := s.host.run(t, append([]string{"exec", s.host.guest, "--"}, tt.command...)...)
		if r.code != tt.code || r.stdout != tt.stdout || tt.stderr != "*" && r.stderr != tt.stderr {
			t.Errorf("exec %q: %v, want exit code %d, stdout %q, stderr %q", tt.command, r, tt.code, tt.stdout, tt.stderr)
		}
	}
}

// peer asks in the guest who calls.
func (s *scenario) peer(t *testing.T) {
	b := s.host.start(t, "exec", "-e", envHelper+"=1", s.host.guest, "--", "/bin/lab.test")
	if got := b.line(t); got != "listening" {
		t.Fatalf("the helper says %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	c, err := transport.Dial(ctx, s.addr(helperPort), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, want := b.line(t), fmt.Sprintf("I am %d, the peer is %d", s.inner.CID, transport.CIDHost); got != want {
		t.Errorf("the guest says %q, want %q", got, want)
	}
	if code, stderr := b.wait(t, callLimit); code != 0 {
		t.Errorf("the helper's exit code is %d: %s", code, stderr)
	}
	if cid, err := transport.LocalCID(); err != nil || cid != transport.CIDHost {
		t.Errorf("the host's CID is %d, %v, want %d", cid, err, transport.CIDHost)
	}
	if got := c.Peer().CID; got != s.inner.CID {
		t.Errorf("the host sees the peer as %d, want %d", got, s.inner.CID)
	}
}

func (s *scenario) notListening(t *testing.T) {
	if got := dialKind(t, s.addr(freePort), callLimit); got != transport.KindNotListening {
		t.Errorf("dial a port without a listener: %v, want %v", got, transport.KindNotListening)
	}
	r := s.host.run(t, "exec", fmt.Sprintf("vsock:%d:%d", s.inner.CID, freePort), "--", "id")
	if r.code != 125 || r.stdout != "" || r.stderr == "" {
		t.Errorf("exec at a port without a listener: %v, want exit code 125 and a reason", r)
	}
}

// unprivileged calls as a user of the host who is not root.
func (s *scenario) unprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	probe := s.host.command(t.Context(), call{args: []string{"version"}, user: nobody})
	if err := probe.Run(); errors.Is(err, fs.ErrPermission) {
		t.Skipf("nobody has no access to host-ctl, in a private directory: %v", err)
	}
	r := s.host.call(t, call{args: []string{"exec", s.host.guest, "--", "id"}, user: nobody})
	if r.code != 125 || r.stdout != "" || !strings.Contains(r.stderr, "host-root") || !strings.Contains(r.stderr, "--peer=host") {
		t.Errorf("exec as nobody: %v, want exit code 125, the rule and the setting", r)
	}
	i := s.infoAs(t, nobody)
	if i.Access.Trusted || i.Access.Rule != "host-root" || i.BootID != "" || i.OS.Release != "" {
		t.Errorf("info as nobody: %+v, want nothing but versions", i)
	}
	if r := s.host.call(t, call{args: []string{"wait", s.host.guest, "--timeout", callLimit.String()}, user: nobody}); r.code != 0 {
		t.Errorf("wait as nobody: %v", r)
	}
}

// pause stops the guest's time, during a command and before one.
func (s *scenario) pause(t *testing.T) {
	b := s.host.start(t, "exec", "-i", s.host.guest, "--", "sh", "-c", "echo ready; sleep 1; echo done")
	if got := b.line(t); got != "ready" {
		t.Fatalf("the command says %q", got)
	}
	s.guest.pause(t)
	if got := dialKind(t, s.addr(agentPort), dialTry); got != transport.KindGuestBooting {
		t.Errorf("dial a paused guest: %v, want %v", got, transport.KindGuestBooting)
	}
	r := s.host.run(t, "--connect-timeout", "2s", "exec", s.host.guest, "--", "id")
	if r.code != 125 || r.took > seconds {
		t.Errorf("exec in a paused guest: %v, want exit code 125 within %v", r, seconds)
	}
	s.guest.resume(t)
	if got := b.line(t); got != "done" {
		t.Errorf("the command that was paused says %q", got)
	}
	if code, stderr := b.wait(t, callLimit); code != 0 {
		t.Errorf("the command that was paused: exit code %d: %s", code, stderr)
	}
	if r := s.host.run(t, "exec", s.host.guest, "--", "id", "-u"); r.stdout != "0\n" {
		t.Errorf("exec in the guest after a pause: %v", r)
	}
}

// powerOff powers the guest off during a command.
func (s *scenario) powerOff(t *testing.T) {
	b := s.host.start(t, "exec", "--reconnect", "0", s.host.guest, "--", "sh", "-c", "echo ready; sleep 1000")
	if got := b.line(t); got != "ready" {
		t.Fatalf("the command says %q", got)
	}
	off := s.host.start(t, "exec", "--reconnect", "0", s.host.guest, "--", "poweroff", "-f")
	s.guest.waitEnd(t, callLimit)
	start := time.Now()
	if code, stderr := b.wait(t, seconds); code != 125 || stderr == "" {
		t.Errorf("exec in a guest that went off: exit code %d, stderr %q, want 125 and a reason", code, stderr)
	} else {
		t.Logf("%v after the guest is off: %s", time.Since(start).Round(time.Millisecond), strings.TrimSpace(stderr))
	}
	off.wait(t, callLimit)
	if got := dialKind(t, s.addr(agentPort), dialTry); got != transport.KindNoSuchCID {
		t.Errorf("dial a guest that is off: %v, want %v", got, transport.KindNoSuchCID)
	}
	if r := s.host.run(t, "exec", s.host.guest, "--", "id"); r.code != 125 || r.took > seconds {
		t.Errorf("exec in a guest that is off: %v, want exit code 125 within %v", r, seconds)
	}
}
