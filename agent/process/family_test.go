//go:build linux

package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// carriers calls f with a server that has cgroups and with one that has none.
func carriers(t *testing.T, f func(t *testing.T, c *carrier)) {
	t.Run("cgroup", func(t *testing.T) { f(t, newCgroupCarrier(t)) })
	t.Run("no cgroup", func(t *testing.T) { f(t, newCarrier(t, nil)) })
}

// newCgroupCarrier is a server with cgroups, where that moves no process of the test:
// the caller's cgroup is the root, or has no controllers.
func newCgroupCarrier(t testing.TB) *carrier {
	t.Helper()
	own, err := ownCgroup()
	if err != nil {
		t.Skip(err)
	}
	if own != "/" {
		for _, root := range cgroupRoots {
			if text, err := os.ReadFile(filepath.Join(root, own, "cgroup.controllers")); err == nil && len(bytes.TrimSpace(text)) > 0 {
				t.Skip("this cgroup has controllers")
			}
		}
	}
	c := newCarrier(t, &Config{Cgroup: true})
	if c.srv.cgroups == nil {
		t.Skip("no cgroup v2 that can be written")
	}
	return c
}

// escapee is a script for a daemon that has left its parents, its process group
// and its POSIX session, and that neither HUP nor TERM ends. It prints its pid.
const escapee = `(setsid sh -c 'trap "" HUP TERM; echo $$; exec sleep 1000' &)`

func (s *stream) pidLine(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(s.firstLine(t))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func alive(pid int) bool {
	p, ok := readStat(pid)
	return ok && p.alive()
}

// TestEndsEverything: a session that is ended leaves nothing, wherever it has gone.
func TestEndsEverything(t *testing.T) {
	ends := map[string]func(*testing.T, *carrier, *stream) error{
		"leave": func(_ *testing.T, _ *carrier, s *stream) error { return s.leave(false) },
		"remove": func(t *testing.T, c *carrier, s *stream) error {
			_, err := c.client.Remove(testContext(t), &guestv1.RemoveRequest{SessionId: s.opened.Session.SessionId, Force: true})
			return err
		},
		"time": func(t *testing.T, c *carrier, s *stream) error {
			ses, err := c.srv.find(t.Context(), s.opened.Session.SessionId, "")
			if err == nil {
				ses.timeUp()
			}
			return err
		},
		"KILL": func(t *testing.T, c *carrier, s *stream) error {
			_, err := c.client.Signal(testContext(t), &guestv1.SignalRequest{
				Target: &guestv1.SignalRequest_SessionId{SessionId: s.opened.Session.SessionId}, Signal: 9, Group: true})
			return err
		},
		"KILL by its owner": func(_ *testing.T, _ *carrier, s *stream) error {
			return s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Signal{Signal: &guestv1.SendSignal{Signal: 9}}})
		},
	}
	carriers(t, func(t *testing.T, c *carrier) {
		for name, end := range ends {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: shell(escapee + "; exec sleep 1000")})
				if err != nil {
					t.Fatal(err)
				}
				defer s.stop()
				pid := s.pidLine(t)
				if p, ok := readStat(pid); !ok || p.session != pid || p.parent == int(s.opened.Session.Pid) {
					t.Fatalf("%+v has not left its session %d", p, s.opened.Session.Pid)
				}
				if err := end(t, c, s); err != nil {
					t.Fatal(err)
				}
				gone(t, pid)
				gone(t, int(s.opened.Session.Pid))
			})
		}
	})
}

// TestForkRace: what forks all the time, each time ending the parent, is ended too.
func TestForkRace(t *testing.T) {
	carriers(t, func(t *testing.T, c *carrier) {
		s, err := c.exec(testContext(t), &guestv1.Open{SessionId: newID(), Spec: shell(`hop() { (hop &) }; trap "" HUP TERM; hop; hop; echo ready; exec sleep 1000`)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.stop()
		s.untilOutput(t, "ready")
		if err := s.send(&guestv1.ExecRequest{Message: &guestv1.ExecRequest_Signal{Signal: &guestv1.SendSignal{Signal: 9}}}); err != nil {
			t.Fatal(err)
		}
		gone(t, int(s.opened.Session.Pid))
		mark := sessionID(s.opened.Session.SessionId).String()
		quiet := 0
		wait.For(t, "all that forks is gone", func() bool {
			list, err := pids()
			if err != nil {
				t.Fatal(err)
			}
			quiet++
			for _, pid := range list {
				if hasMark(pid, mark) && alive(pid) {
					quiet = 0
				}
			}
			return quiet == 5
		})
	})
}

// TestRemaining: what a program has left running when it exits goes on, and belongs
// to its session, unless the session asks for its end.
func TestRemaining(t *testing.T) {
	carriers(t, func(t *testing.T, c *carrier) {
		for name, script := range map[string]string{
			"background": `sleep 1000 >/dev/null 2>&1 & echo $!`,
			"nohup":      `nohup sleep 1000 >/dev/null 2>&1 & echo $!`,
			// The shell waits for the number, which could come too late after its end.
			"daemon": `pid=$( (setsid sh -c 'trap "" HUP TERM; echo $$; exec sleep 1000 >/dev/null 2>&1' &) ); echo $pid`,
		} {
			for _, kill := range []bool{false, true} {
				t.Run(name+" "+strconv.FormatBool(kill), func(t *testing.T) {
					t.Parallel()
					spec := shell(script)
					spec.KillRemaining = kill
					s, err := c.run(testContext(t), spec, "")
					if err != nil || s.exit.GetCode() != 0 {
						t.Fatalf("%v, exit %v", err, s.exit)
					}
					pid := s.pidLine(t)
					if kill {
						gone(t, pid)
						return
					}
					defer unix.Kill(pid, unix.SIGKILL)
					ses, err := c.srv.find(t.Context(), s.opened.Session.SessionId, "")
					if err != nil {
						t.Fatal(err)
					}
					<-ses.done
					if p, ok := readStat(pid); !ok || !p.alive() {
						t.Fatalf("%d has ended: %+v", pid, p)
					}
					if got := c.sessionOf(t, pid); !bytes.Equal(got, s.opened.Session.SessionId) {
						t.Errorf("ps says that %d is of session %x, want %x", pid, got, s.opened.Session.SessionId)
					}
				})
			}
		}
	})
}

// TestRemainingOfTerminal: a job in the background outlives the shell of a terminal
// if HUP does not end it.
func TestRemainingOfTerminal(t *testing.T) {
	c := newCarrier(t, nil)
	s, err := c.run(testContext(t), terminal(shell(`set -m; nohup sleep 1000 >/dev/null 2>&1 & echo $!`)), "")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(s.firstLine(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(pid, unix.SIGKILL)
	if !alive(pid) {
		t.Errorf("%d has ended", pid)
	}
}

// sessionOf returns the session that ps shows for a process.
func (c *carrier) sessionOf(t *testing.T, pid int) []byte {
	t.Helper()
	list, err := c.client.ListProcesses(testContext(t), &guestv1.ListProcessesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := list.Recv()
		if err != nil {
			t.Fatalf("process %d is not listed: %v", pid, err)
		}
		for _, p := range resp.Processes {
			if int(p.Pid) == pid {
				return p.SessionId
			}
		}
	}
}

// TestCgroupOfEachSession: each session has a cgroup, which goes with its processes,
// and with it the cgroups that its program has made.
func TestCgroupOfEachSession(t *testing.T) {
	c := newCgroupCarrier(t)
	id := newID()
	group := filepath.Join(c.srv.cgroups.dir, sessionID(id).String())
	s, err := c.exec(testContext(t), &guestv1.Open{SessionId: id, Spec: shell("mkdir -p " + group + "/a/b && grep ^0:: /proc/self/cgroup; exec sleep 1000")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if got, want := s.firstLine(t), "0::"+c.srv.cgroups.name()+"/"+sessionID(id).String(); got != want {
		t.Errorf("the program is in %q, want %q", got, want)
	}
	if err := s.leave(false); err != nil {
		t.Fatal(err)
	}
	wait.For(t, "its cgroup is gone", func() bool {
		_, err := os.Stat(group)
		return os.IsNotExist(err)
	})
}

// BenchmarkStart is a whole exec of a program that ends at once.
func BenchmarkStart(b *testing.B) {
	for name, c := range map[string]*carrier{"cgroup": newCgroupCarrier(b), "none": newCarrier(b, nil)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := c.run(testContext(b), &guestv1.SessionSpec{Args: args("/bin/true")}, ""); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
