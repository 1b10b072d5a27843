//go:build linux

package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/hostile"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// someUser is one that has nothing else running.
var someUser = 1<<30 + os.Getpid()

// hung returns a directory on a file system of someUser's that does not answer.
func hung(t *testing.T, others bool) (string, *hostile.HungFS) {
	t.Helper()
	needsRoot(t)
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := hostile.MountHung(dir, someUser, someUser, others)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	})
	return dir, fs
}

func (c *carrier) works(t *testing.T) {
	t.Helper()
	for _, user := range []string{"", "54999"} {
		s, err := c.run(testContext(t), &guestv1.SessionSpec{Args: args("true"), User: []byte(user)}, "")
		if err != nil || s.exit.GetCode() != 0 {
			t.Errorf("a start as %q beside one that hangs: %v", user, err)
		}
	}
}

// TestStartThatHangs: a file system that does not answer delays the start of who
// uses it alone, and not for ever.
func TestStartThatHangs(t *testing.T) {
	user := fmt.Append(nil, someUser)
	tests := map[string]func(dir string) *guestv1.SessionSpec{
		"the user's directory": func(dir string) *guestv1.SessionSpec {
			return &guestv1.SessionSpec{Args: args("true"), User: user, Dir: []byte(dir + "/x")}
		},
		"the user's program": func(dir string) *guestv1.SessionSpec {
			return &guestv1.SessionSpec{Args: args(dir + "/x"), User: user}
		},
		"the user's PATH": func(dir string) *guestv1.SessionSpec {
			return &guestv1.SessionSpec{Args: args("x"), User: user, Env: args("PATH=" + dir)}
		},
		"root's directory": func(dir string) *guestv1.SessionSpec {
			return &guestv1.SessionSpec{Args: args("true"), Dir: []byte(dir + "/x")}
		},
		"root's program": func(dir string) *guestv1.SessionSpec {
			return &guestv1.SessionSpec{Args: args(dir + "/x")}
		},
		"root's PATH": func(dir string) *guestv1.SessionSpec {
			return &guestv1.SessionSpec{Args: args("x"), Env: args("PATH=" + dir + ":/bin")}
		},
		"root's script": func(dir string) *guestv1.SessionSpec {
			script := filepath.Join(filepath.Dir(dir), "script")
			if err := os.WriteFile(script, []byte("#! "+dir+"/x\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			return &guestv1.SessionSpec{Args: args(script)}
		},
		"root's link": func(dir string) *guestv1.SessionSpec {
			link := filepath.Join(filepath.Dir(dir), "link")
			if err := os.Symlink(filepath.Base(dir)+"/x", link); err != nil {
				t.Fatal(err)
			}
			return &guestv1.SessionSpec{Args: args(link)}
		},
	}
	for name, spec := range tests {
		t.Run(name, func(t *testing.T) {
			dir, fs := hung(t, strings.HasPrefix(name, "root"))
			c := newCarrier(t, &Config{StartTimeout: patience})
			done := make(chan error, 1)
			go func() {
				_, err := c.run(testContext(t), spec(dir), "")
				done <- err
			}()
			select {
			case <-fs.Asked():
			case err := <-done:
				t.Fatalf("it did not hang: %v", err)
			case <-time.After(patience):
				t.Fatal("nobody asks the file system")
			}
			c.works(t)
			fs.End()
			if err := <-done; err == nil {
				t.Error("it has started")
			}
		})
	}
}

// TestStartTimeout: such a start has an answer, and the next one too.
func TestStartTimeout(t *testing.T) {
	dir, _ := hung(t, false)
	c := newCarrier(t, &Config{StartTimeout: 200 * time.Millisecond})
	for range 3 {
		spec := &guestv1.SessionSpec{Args: args("true"), User: fmt.Append(nil, someUser), Dir: []byte(dir + "/x")}
		_, err := c.run(testContext(t), spec, "")
		if status.Code(err) != codes.DeadlineExceeded || reasonOf(err) != reasonStartTimeout {
			t.Errorf("%v, want %s", err, reasonStartTimeout)
		}
	}
	c.srv.cfg.StartTimeout = patience
	c.works(t)
}

// TestCloseEndsStarts: a start that hangs does not hold up the end of the agent,
// nor does a process that no signal ends.
func TestCloseEndsStarts(t *testing.T) {
	dir, fs := hung(t, false)
	c := newCarrier(t, &Config{StartTimeout: time.Hour})
	user := fmt.Append(nil, someUser)
	// It begins well, and hangs later.
	if _, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: newID(), Spec: &guestv1.SessionSpec{Args: args("ls", dir), User: user}}); err != nil {
		t.Fatal(err)
	}
	<-fs.Asked()
	before := fs.Requests()
	done := make(chan error, 1)
	go func() {
		_, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: newID(), Spec: &guestv1.SessionSpec{Args: args("true"), User: user, Dir: []byte(dir + "/x")}})
		done <- err
	}()
	wait.For(t, "the second hangs", func() bool { return fs.Requests() != before })
	closed := make(chan error, 1)
	go func() { closed <- c.srv.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the server does not close")
	}
	if err := <-done; reasonOf(err) != reasonAgentStopping {
		t.Errorf("the start ended with %v, want %s", err, reasonAgentStopping)
	}
}

// TestStuckStarts: who lets starts hang that cannot be ended either gets no more of
// them, and others do.
func TestStuckStarts(t *testing.T) {
	dir, _ := hung(t, false)
	c := newCarrier(t, &Config{StartTimeout: 50 * time.Millisecond})
	spec := &guestv1.SessionSpec{Args: args("true"), User: fmt.Append(nil, someUser), Dir: []byte(dir + "/x")}
	before := 0
	for {
		_, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: newID(), Spec: spec})
		if reasonOf(err) != reasonStartTimeout {
			t.Fatal(err)
		}
		if status.Code(err) == codes.ResourceExhausted {
			break
		}
		now := c.srv.stuck.of(uint32(someUser))
		if now <= before { // it was ended before it asked the file system
			c.srv.cfg.StartTimeout = min(2*c.srv.cfg.StartTimeout, patience/4)
		}
		before = now
	}
	if n := c.srv.stuck.of(uint32(someUser)); n > maxStuck {
		t.Errorf("%d hang", n)
	}
	c.srv.cfg.StartTimeout = patience
	c.works(t)
}

// TestLauncherStopped has a user stop whatever there is of the user's, in a loop,
// and so launchers between their change of ids and their exec.
func TestLauncherStopped(t *testing.T) {
	needsRoot(t)
	c := newCarrier(t, &Config{StartTimeout: 3 * time.Second})
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{helperEnv + "=stopper"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(someUser), Gid: uint32(someUser)}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil { // it is at work
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stopped := make(chan bool, 20)
	for range cap(stopped) {
		wg.Go(func() {
			// Long ways to the directory and to the program give the user time.
			spec := &guestv1.SessionSpec{
				Args: args("true"), User: fmt.Append(nil, someUser), Dir: []byte("/" + strings.Repeat("./", 2000)),
				Env: args("PATH=" + strings.Repeat("/no/such:", 900) + "/bin"),
			}
			_, err := c.client.Start(testContext(t), &guestv1.StartRequest{SessionId: newID(), Spec: spec})
			if err != nil && reasonOf(err) != reasonStartTimeout {
				t.Error(err)
			}
			stopped <- err != nil
		})
	}
	for range 5 {
		s, err := c.run(testContext(t), &guestv1.SessionSpec{Args: args("true")}, "")
		if err != nil || s.exit.GetCode() != 0 {
			t.Errorf("a start beside those that are stopped: %v", err)
		}
	}
	wg.Wait()
	n := 0
	for range cap(stopped) {
		if <-stopped {
			n++
		}
	}
	t.Logf("%d of %d were stopped before their exec", n, cap(stopped))
}

// TestLongPath: of a PATH without end some directories are searched.
func TestLongPath(t *testing.T) {
	c := newCarrier(t, nil)
	for n, want := range map[int]string{maxSearch - 1: "", maxSearch: reasonNotFound} {
		spec := &guestv1.SessionSpec{Args: args("true"), Env: args("PATH=" + strings.Repeat("/none:", n) + "/bin")}
		if _, err := c.run(testContext(t), spec, ""); reasonOf(err) != want {
			t.Errorf("after %d directories: %v, want %q", n, err, want)
		}
	}
	name := strings.Repeat("n", maxName+1)
	if _, err := c.run(testContext(t), &guestv1.SessionSpec{Args: args(name)}, ""); reasonOf(err) != reasonNotFound {
		t.Errorf("a name of %d bytes: %v", len(name), err)
	}
}
