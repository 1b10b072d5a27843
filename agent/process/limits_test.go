//go:build linux

package process

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// statusFields is a shell's own /proc/PID/status, by name.
func (c *carrier) statusFields(t *testing.T, spec *guestv1.SessionSpec) map[string]string {
	t.Helper()
	spec.Args = args("/bin/cat", "/proc/self/status")
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]string)
	for line := range strings.Lines(string(s.out[stdout])) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

func needsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestUsers(t *testing.T) {
	needsRoot(t)
	c := newCarrier(t, nil)
	c.srv.accounts = account.Files{
		Passwd: write(t, "passwd", "root:x:0:0::/root:/bin/sh\nalice:x:54321:54322:A:/no/such/home:/bin/alice-sh\nbob:x:54325:54326::/:\n123:x:54330:54331::/:\nshort:x\n", 0o644),
		Group:  write(t, "group", "staff:x:54400:bob,alice\nmore:x:54401:alice\nbobs:x:54402:bob\nbad:x:y:alice\n", 0o644),
	}
	tests := []struct {
		user, group      string
		uid, gid, groups string
	}{
		{"alice", "", "54321", "54322", "54322 54400 54401"},
		{"54321", "", "54321", "54322", "54322 54400 54401"},
		{"alice", "bobs", "54321", "54402", "54400 54401 54402"},
		{"alice", "54500", "54321", "54500", "54400 54401 54500"},
		{"bob", "", "54325", "54326", "54326 54400 54402"},
		{"54999", "", "54999", "54999", "54999"},
		{"123", "", "54330", "54331", "54331"}, // a name comes first
		{"", "staff", "0", "54400", "54400"},
	}
	for _, launched := range []bool{false, true} {
		for _, tt := range tests {
			spec := &guestv1.SessionSpec{User: []byte(tt.user), Group: []byte(tt.group)}
			if launched {
				spec.Limits = &guestv1.ResourceLimits{NoNewPrivileges: true}
			}
			f := c.statusFields(t, spec)
			want := []string{tt.uid, tt.uid, tt.uid, tt.uid, tt.gid, tt.gid, tt.gid, tt.gid, tt.groups}
			got := append(append(strings.Fields(f["Uid"]), strings.Fields(f["Gid"])...), f["Groups"])
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("user %q, group %q, launched %v (-want +got):\n%s", tt.user, tt.group, launched, diff)
			}
		}
	}
	spec := shell("echo $USER $LOGNAME $HOME $SHELL; pwd; echo again >/proc/self/fd/1")
	spec.User = []byte("alice")
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.out[stdout]), "alice alice /no/such/home /bin/alice-sh\n/\nagain\n"; got != want {
		t.Errorf("base environment %q, want %q (stderr %q)", got, want, s.out[stderr])
	}
	for _, user := range []string{"carol", "-1", "4294967295", "short"} {
		if _, err := c.run(testContext(t), &guestv1.SessionSpec{Args: args("true"), User: []byte(user)}, ""); reasonOf(err) != reasonNoUser {
			t.Errorf("user %q: %v", user, err)
		}
	}
}

// What only the target user may not enter is told apart as that user.
func TestUserWithoutAccess(t *testing.T) {
	needsRoot(t)
	c := newCarrier(t, nil)
	secret := t.TempDir()
	if err := os.Chmod(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	program := secret + "/program"
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		spec   *guestv1.SessionSpec
		reason string
	}{
		{&guestv1.SessionSpec{Args: args("true"), Dir: []byte(secret)}, reasonBadDir},
		{&guestv1.SessionSpec{Args: args(program), Dir: []byte("/")}, reasonNotExecutable},
	} {
		tt.spec.User = []byte("54321")
		if _, err := c.run(testContext(t), tt.spec, ""); reasonOf(err) != tt.reason {
			t.Errorf("%v: %v, want %s", tt.spec, err, tt.reason)
		}
	}
}

func TestProcessLimits(t *testing.T) {
	c := newCarrier(t, nil)
	f := c.statusFields(t, &guestv1.SessionSpec{Limits: &guestv1.ResourceLimits{Umask: new(uint32(0o077)), NoNewPrivileges: true}})
	if f["Umask"] != "0077" || f["NoNewPrivs"] != "1" {
		t.Errorf("umask %s, no_new_privs %s, want 0077 and 1", f["Umask"], f["NoNewPrivs"])
	}
	if f = c.statusFields(t, &guestv1.SessionSpec{}); f["Umask"] != "0022" || f["NoNewPrivs"] != "0" {
		t.Errorf("umask %s, no_new_privs %s, want 0022 and 0", f["Umask"], f["NoNewPrivs"])
	}
	spec := shell("ulimit -c; ulimit -n; ulimit -H -n; cat /proc/$$/stat; exit 6")
	spec.Limits = &guestv1.ResourceLimits{
		Nice: new(int32(7)),
		Rlimits: []*guestv1.Rlimit{
			{Name: "core"}, {Name: "nofile", Soft: 64, Hard: 128}, {Name: "RSS", Soft: 1<<64 - 1, Hard: 1<<64 - 1},
		},
	}
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitN(string(s.out[stdout]), "\n", 4)
	if diff := cmp.Diff([]string{"0", "64", "128"}, lines[:3]); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	stat := strings.Fields(lines[3][strings.LastIndexByte(lines[3], ')')+1:])
	if nice := stat[19-3]; nice != "7" {
		t.Errorf("niceness %s, want 7", nice)
	}
	if pid := int(s.opened.Session.Pid); s.exit.GetCode() != 6 || stat[4-3] != strconv.Itoa(os.Getpid()) || stat[6-3] != strconv.Itoa(pid) {
		t.Errorf("exit %v of %s: want code 6, our child, session %d", s.exit, lines[3], pid)
	}
}

func TestDropCapabilities(t *testing.T) {
	needsRoot(t)
	c := newCarrier(t, nil)
	bits := func(spec *guestv1.SessionSpec, name string) uint64 {
		n, err := strconv.ParseUint(c.statusFields(t, spec)[name], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const netRaw, sysTime = 1 << 13, 1 << 25
	before := bits(&guestv1.SessionSpec{}, "CapEff")
	if before&(netRaw|sysTime) != netRaw|sysTime {
		t.Skip("the capabilities are not there")
	}
	drop := &guestv1.SessionSpec{Limits: &guestv1.ResourceLimits{DropCapabilities: []string{"CAP_NET_RAW", "sys_time"}}}
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		if after := bits(drop, set); after != bits(&guestv1.SessionSpec{}, set)&^(netRaw|sysTime) {
			t.Errorf("%s is %#x after dropping two of %#x", set, after, before)
		}
	}
}

func TestLimitsThatAgentCannotSet(t *testing.T) {
	c := newCarrier(t, nil)
	// This one makes no cgroups.
	for _, l := range []*guestv1.ResourceLimits{
		{MemoryBytes: new(uint64(1 << 30))}, {Processes: new(uint64(10))}, {CpuMillis: new(uint64(500))},
	} {
		_, err := c.run(testContext(t), &guestv1.SessionSpec{Args: args("true"), Limits: l}, "")
		if status.Code(err) != codes.FailedPrecondition || reasonOf(err) != reasonNoCgroup {
			t.Errorf("limits %v: %v", l, err)
		}
	}
	// Nor does a program whose main does not call MaybeRunLauncher.
	launcherReady.Store(false)
	defer launcherReady.Store(true)
	spec := &guestv1.SessionSpec{Args: args("true"), Limits: &guestv1.ResourceLimits{NoNewPrivileges: true}}
	if _, err := c.run(testContext(t), spec, ""); reasonOf(err) != reasonNoLauncher {
		t.Errorf("limits without a launcher: %v", err)
	}
	if s, err := c.run(testContext(t), &guestv1.SessionSpec{Args: args("true")}, ""); err != nil || s.exit.GetCode() != 0 {
		t.Errorf("no limits without a launcher: %v", err)
	}
}

func TestOOMScoreIsNotInherited(t *testing.T) {
	needsRoot(t)
	before, err := os.ReadFile(oomScoreFile)
	if err != nil {
		t.Fatal(err)
	}
	c := newCarrier(t, &Config{Protect: true})
	defer os.WriteFile(oomScoreFile, before, 0)
	own := func() string {
		text, err := os.ReadFile(oomScoreFile)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	if own() != strconv.Itoa(agentOOMScore) {
		t.Skip("the agent's score cannot be lowered here")
	}
	done := make(chan error)
	const several = 20
	for range several {
		go func() {
			s, err := c.run(testContext(t), &guestv1.SessionSpec{Args: args("cat", oomScoreFile)}, "")
			if err == nil && string(s.out[stdout]) != "0\n" {
				t.Errorf("a session's score is %q, want 0", s.out[stdout])
			}
			done <- err
		}()
	}
	for range several {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if own() != strconv.Itoa(agentOOMScore) {
		t.Errorf("the agent's score is %s afterwards", own())
	}
}

func TestCPUMax(t *testing.T) {
	for millis, want := range map[uint64]string{
		0: "0 1000000", 1: "1000 1000000", 9: "9000 1000000", 10: "1000 100000", 1000: "100000 100000",
		2500: "250000 100000", 1<<64 - 1: "107374182400 100000",
	} {
		if got := cpuMax(millis); got != want {
			t.Errorf("%d thousandths: %q, want %q", millis, got, want)
		}
	}
}
