//go:build linux

package process

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// needsLab skips what must not run on a machine that others use.
func needsLab(t *testing.T) {
	if os.Getenv("VSOCKRPC_LAB") != "uml" {
		t.Skip("runs in the User-mode Linux lab only")
	}
}

// newLab is a server with cgroups, in the lab's root cgroup.
func newLab(t *testing.T) *carrier {
	needsLab(t)
	before, err := os.ReadFile(oomScoreFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(oomScoreFile, before, 0) })
	c := newCarrier(t, &Config{Cgroup: true, Protect: true})
	if c.srv.cgroups == nil {
		_, err := newCgroups(true)
		t.Fatalf("no cgroups: %v", err)
	}
	t.Cleanup(func() {
		// Runs before the server's end, so only what has sessions is left. The
		// client knows of a session's end before its cgroup is removed.
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			groups, err := filepath.Glob(c.srv.cgroups.dir + "/s[0-9a-f]*")
			if err != nil || len(groups) > 0 && time.Now().After(end) {
				t.Errorf("cgroups are left: %v, %v", groups, err)
			}
			if err != nil || len(groups) == 0 || t.Failed() {
				return
			}
		}
	})
	return c
}

func (c *carrier) needs(t *testing.T, controller string) {
	for _, name := range c.srv.cgroups.controllers {
		if name == controller {
			return
		}
	}
	t.Skipf("the lab's kernel has no %s controller", controller)
}

func TestLabOutOfMemory(t *testing.T) {
	c := newLab(t)
	c.needs(t, "memory")
	w, err := c.client.WatchSessions(testContext(t), &guestv1.WatchSessionsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Header(); err != nil {
		t.Fatal(err)
	}
	spec := helper(t, "hog", strconv.Itoa(256<<20))
	spec.Limits = &guestv1.ResourceLimits{MemoryBytes: new(uint64(64 << 20))}
	s, err := c.run(testContext(t), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	if s.exit.Signal != 9 || !s.exit.OomKilled || s.exit.Reason == "" {
		t.Errorf("exit %v, want an OOM kill", s.exit)
	}
	for {
		e, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.GetOomKilled() != nil {
			break
		}
	}
	// A child is killed, and the shell tells of it.
	spec = shell(`"$HELPER" ` + strconv.Itoa(256<<20) + "; exit $?")
	exe := helper(t, "hog")
	spec.Env = append(exe.Env, append([]byte("HELPER="), exe.Args[0]...))
	spec.Limits = &guestv1.ResourceLimits{MemoryBytes: new(uint64(64 << 20))}
	if s, err = c.run(testContext(t), spec, ""); err != nil {
		t.Fatal(err)
	}
	if s.exit.GetCode() != 137 || !s.exit.OomKilled {
		t.Errorf("exit %v, want code 137 and an OOM kill", s.exit)
	}
}

func TestLabForkBomb(t *testing.T) {
	c := newLab(t)
	c.needs(t, "pids")
	spec := helper(t, "bomb")
	spec.Limits = &guestv1.ResourceLimits{Processes: new(uint64(40))}
	spec.OwnerGraceMillis = new(uint64(0))
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.firstLine(t) // it can start no more
	other, err := c.run(testContext(t), shell("echo fine"), "")
	if err != nil || string(other.out[stdout]) != "fine\n" {
		t.Errorf("another session beside a fork bomb: %v", err)
	}
	group := c.srv.cgroups.dir + "/" + sessionID(s.opened.Session.SessionId).String()
	procs := func() int {
		f, err := os.Open(group + "/cgroup.procs")
		if err != nil {
			return 0
		}
		defer f.Close()
		n := 0
		for lines := bufio.NewScanner(f); lines.Scan(); {
			n++
		}
		return n
	}
	if n := procs(); n < 2 || n > 40 {
		t.Errorf("%d processes, want at most 40", n)
	}
	if err := s.leave(false); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "all of the bomb is gone", func() bool { return procs() == 0 })
	wait.For(t, "its cgroup is gone", func() bool {
		_, err := os.Stat(group)
		return os.IsNotExist(err)
	})
}

func TestLabLimits(t *testing.T) {
	c := newLab(t)
	for _, tt := range []struct {
		controller string
		limits     *guestv1.ResourceLimits
		want       string
	}{
		{"memory", &guestv1.ResourceLimits{MemoryBytes: new(uint64(32 << 20))}, "33554432"},
		{"pids", &guestv1.ResourceLimits{Processes: new(uint64(17))}, "17"},
		{"cpu", &guestv1.ResourceLimits{CpuMillis: new(uint64(1500))}, "150000 100000"},
	} {
		t.Run(tt.controller, func(t *testing.T) {
			c.needs(t, tt.controller)
			spec := shell("cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/" + tt.controller + ".max")
			spec.Limits = tt.limits
			s, err := c.run(testContext(t), spec, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(s.out[stdout])); got != tt.want {
				t.Errorf("%s.max is %q, want %q (stderr %q)", tt.controller, got, tt.want, s.out[stderr])
			}
		})
	}
	// The launcher starts in the cgroup, and nothing else does.
	s, err := c.run(testContext(t), shell("cat /proc/self/cgroup"), "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(s.out[stdout])), "0::/"+sessionsGroup+"/"+sessionID(s.opened.Session.SessionId).String(); got != want {
		t.Errorf("a session without limits is in %s, want %s", got, want)
	}
	own, err := ownCgroup()
	if err != nil || strings.Contains(own, sessionsGroup) {
		t.Errorf("the agent is in %s, %v", own, err)
	}
	// All sessions together have less of the CPU than the agent, and not all tasks.
	for name, want := range map[string]uint64{
		"cpu.weight": sessionsWeight,
		"pids.max":   min(readNumber("/proc/sys/kernel/pid_max"), readNumber("/proc/sys/kernel/threads-max")) - spareTasks,
	} {
		t.Run(name, func(t *testing.T) {
			controller, _, _ := strings.Cut(name, ".")
			c.needs(t, controller)
			if got := readNumber(c.srv.cgroups.dir + "/" + name); got != want {
				t.Errorf("%s of all sessions is %d, want %d", name, got, want)
			}
		})
	}
}

// hog takes memory until it is killed.
func hog(size int) {
	var all [][]byte
	for n := 0; n < size; n += 1 << 20 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println("took all of", len(all))
}

// bomb starts as many of itself as it may, and says when it may no more.
func bomb() {
	for range 1000 {
		cmd := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			break
		}
	}
	fmt.Println("no more")
	forever()
}

// TestLabSharedTaken has a program enable controllers for children of its own
// in the shared cgroup, as another agent does: the kernel
// puts no further process there.
func TestLabSharedTaken(t *testing.T) {
	c := newLab(t)
	c.needs(t, "pids")
	taken := c.srv.cgroups.shared.Name()
	for range 2 {
		if fd := c.srv.cgroups.fd(nil); fd < 0 {
			t.Fatal("no cgroup for a session without one of its own")
		}
		s, err := c.run(testContext(t), &guestv1.SessionSpec{Args: toBytes([]string{"/bin/sh", "-c", "exit 3"})}, "")
		if err != nil || s.exit.GetCode() != 3 {
			t.Fatalf("exit %v, %v, want code 3", s.exit, err)
		}
		if err := writeCgroup(taken, "cgroup.subtree_control", "+pids"); err != nil {
			t.Fatal(err)
		}
	}
	if now := c.srv.cgroups.shared.Name(); now == taken {
		t.Errorf("the cgroup of the sessions is still %s", now)
	}
}
