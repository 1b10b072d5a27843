//go:build linux

package reap

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleEnv names the part that the test binary plays in a process of its own:
// a reaper belongs to a whole process.
const roleEnv = "REAP_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "reaper":
		if err := reaperRole(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	case "parent": // leaves orphans behind
		for range 3 {
			if err := role("orphan").Start(); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		code, _ := strconv.Atoi(os.Args[1])
		os.Exit(code)
	case "orphan":
		os.Exit(77)
	}
}

func role(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{roleEnv + "=" + name}
	return cmd
}

// reaperRole starts children that each leave orphans, and checks that it gets
// every child's code while no orphan is left.
func reaperRole() error {
	if os.Getpid() == 1 {
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
	}
	r, err := Start(nil)
	if err != nil {
		return err
	}
	defer r.Close()
	// One child is dead all the time and waited for at the end only: it hides
	// the orphans behind it.
	var late int
	waited, err := Child(func() (int, error) {
		cmd := role("parent", "99")
		err := cmd.Start()
		if err == nil {
			late = cmd.Process.Pid
			err = cmd.Process.Release()
		}
		return late, err
	})
	if err != nil {
		return err
	}
	const several = 50
	errs := make(chan error, several)
	work := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range work {
				err := Run(role("parent", strconv.Itoa(i)))
				code := 0
				if exit, ok := errors.AsType[*exec.ExitError](err); ok {
					code, err = exit.ExitCode(), nil
				}
				if err == nil && code != i {
					err = fmt.Errorf("child %d ended with %d", i, code)
				}
				errs <- err
			}
		})
	}
	for i := range several {
		work <- i
	}
	close(work)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	if err := onlyChild(late); err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(late, &status, 0, nil); err != nil || status.ExitStatus() != 99 {
		return fmt.Errorf("the child that is waited for late: %v, %v", status.ExitStatus(), err)
	}
	waited()
	if registered(late) {
		return errors.New("a child is registered that was waited for")
	}
	return onlyChild(0)
}

// onlyChild waits until no dead child is left but one.
func onlyChild(pid int) error {
	var left []int
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var err error
		if left, err = deadChildren(); err != nil {
			return err
		}
		if len(left) == 0 && pid == 0 || len(left) == 1 && left[0] == pid {
			return nil
		}
	}
	return fmt.Errorf("dead children %v are left, want only %d", left, pid)
}

func TestReaper(t *testing.T) {
	out, err := role("reaper").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestReaperAsFirstProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cmd := role("reaper")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no namespaces here")
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestChildThatDoesNotStart(t *testing.T) {
	_, err := Child(func() (int, error) { return 0, os.ErrNotExist })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want that of the start", err)
	}
	if err := Run(exec.Command("/no/such/program")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want not found", err)
	}
	children.mu.Lock()
	defer children.mu.Unlock()
	if len(children.pids) != 0 {
		t.Errorf("registered: %v", children.pids)
	}
}

func TestPidRegisteredTwice(t *testing.T) {
	start := func() (int, error) { return 1 << 30, nil }
	first, err1 := Child(start)
	second, err2 := Child(start) // the kernel has given it out again
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	first()
	first()
	if !registered(1 << 30) {
		t.Error("the second child is not registered any more")
	}
	second()
	if registered(1 << 30) {
		t.Error("still registered")
	}
	if strings.Contains(fmt.Sprint(children.pids), "1073741824") {
		t.Error("an entry is left")
	}
}
