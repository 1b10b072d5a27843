package subject

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	"github.com/vsockrpc/vsockrpc/internal/hostile"
	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// touchEnv has the pid of a process that the test binary is to touch.
const touchEnv = "SUBJECT_TEST_TOUCH"

// user is nobody on any machine that tests run on.
var user = account.Account{Name: "user", UID: 54321, GID: 54322, Groups: []uint32{54322, 54323}, Home: "/"}

func TestMain(m *testing.M) {
	if pid, err := strconv.Atoi(os.Getenv(touchEnv)); err == nil {
		worked, threads := hostile.Touch(pid)
		fmt.Printf("%d threads\n%s", threads, strings.Join(worked, "\n"))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// touch has the user, who has the groups too, touch this process.
func touch(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = []string{fmt.Sprintf("%s=%d", touchEnv, os.Getpid())}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user.UID, Gid: user.GID, Groups: user.Groups}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	count, worked, ok := strings.Cut(string(out), "\n")
	if n, _, _ := strings.Cut(count, " "); !ok || n == "0" {
		t.Fatalf("the user saw %q", out)
	}
	return worked
}

// TestUntouchable has a user try everything on each thread of a process of root's
// that acts as that user.
func TestUntouchable(t *testing.T) {
	needsRoot(t)
	const several = 4
	started, release := make(chan int, several), make(chan struct{})
	done := make(chan error, several)
	for range several {
		go func() {
			done <- Do(context.Background(), user, func() error {
				started <- unix.Gettid()
				<-release
				return nil
			})
		}()
	}
	for range several {
		<-started
	}
	if worked := touch(t); worked != "" {
		t.Errorf("a user got at threads that act as the user:\n%s", worked)
	}
	close(release)
	for range several {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestTouch shows that what TestUntouchable relies on finds a thread that is the
// user's.
func TestTouch(t *testing.T) {
	needsRoot(t)
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(os.Getuid())}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	worked, threads := hostile.Touch(cmd.Process.Pid)
	if threads != 1 {
		t.Fatalf("%d threads", threads)
	}
	for _, name := range []string{"kill", "tgkill", "prlimit", "ptrace", "sched_setaffinity", "sched_setscheduler", "setpriority", "ioprio_set",
		"process_vm_readv", "pidfd_getfd", "move_pages", "/proc mem", "/proc environ", "/proc maps", "/proc fd"} {
		found := false
		for _, w := range worked {
			found = found || strings.HasPrefix(w, name+" of") && strings.HasSuffix(w, "<nil>")
		}
		if !found {
			t.Errorf("%s does not work on a process of one's own: %q", name, worked)
		}
	}
}

// TestRights: Do has the user's rights to files and no others, its thread is the
// agent's but for that, and it does not come back.
func TestRights(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755), os.WriteFile(dir+"/secret", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	before := fields(t, "/proc/self/status")
	var status map[string]string
	var tid int
	err := Do(t.Context(), user, func() error {
		tid = unix.Gettid()
		status = fields(t, fmt.Sprintf("/proc/self/task/%d/status", tid))
		if _, err := os.ReadFile(dir + "/secret"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("read root's file: %v", err)
		}
		if err := os.WriteFile(dir+"/mine", nil, 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Chown(dir+"/mine", 0, 0); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("chown: %v", err)
		}
		if err := unix.Setxattr(dir+"/mine", "trusted.x", []byte("x"), 0); !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("a trusted attribute: %v", err)
		}
		if err := unix.Mknod(dir+"/device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("mknod: %v", err)
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("mount: %v", err)
		}
		if tid == os.Getpid() {
			t.Error("it runs on the first thread of the process, which cannot end")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Uid": "0 0 0 54321", "Gid": before["Gid"][:len(before["Gid"])-len(lastWord(before["Gid"]))] + "54322", "Groups": "54322 54323",
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapInh": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if status[name] != want {
			t.Errorf("%s is %q, want %q", name, status[name], want)
		}
	}
	info, err := os.Stat(dir + "/mine")
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != user.UID || st.Gid != user.GID {
		t.Errorf("the file belongs to %d:%d", st.Uid, st.Gid)
	}
	// The thread ends, and none has what it had.
	wait.For(t, "the end of the thread", func() bool {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid))
		return errors.Is(err, fs.ErrNotExist)
	})
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if f := fields(t, "/proc/self/task/"+task.Name()+"/status"); f != nil && (f["Uid"] != before["Uid"] || f["CapPrm"] != before["CapPrm"]) {
			t.Errorf("thread %s: %q, %q", task.Name(), f["Uid"], f["CapPrm"])
		}
	}
}

func lastWord(s string) string { return s[strings.LastIndexByte(s, ' ')+1:] }

// fields are those of a status file in /proc; nil if it is gone.
func fields(t *testing.T, path string) map[string]string {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	all := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		all[name] = strings.Join(strings.Fields(value), " ")
	}
	return all
}

// TestDoEndsWithItsContext: what hangs does not keep its caller.
func TestDoEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	release, ended := make(chan struct{}), make(chan struct{})
	err := Do(ctx, account.Account{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}, func() error {
		defer close(ended)
		cancel()
		<-release
		return nil
	})
	if _, ok := errors.AsType[*LeftError](err); !ok || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(release)
	<-ended
}

// TestDoPanics: a panic is the caller's, who may be able to answer it.
func TestDoPanics(t *testing.T) {
	defer func() {
		if p := fmt.Sprint(recover()); !strings.HasPrefix(p, "oh") || !strings.Contains(p, "TestDoPanics") {
			t.Errorf("recovered %q", p)
		}
	}()
	_ = Do(t.Context(), account.Account{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}, func() error { panic("oh") })
	t.Error("it returned")
}

// TestBecomeFails: who is not root acts as nobody else.
func TestBecomeFails(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may")
	}
	err := Do(t.Context(), user, func() error { return nil })
	if _, ok := errors.AsType[*BecomeError](err); !ok {
		t.Errorf("%v", err)
	}
}

// TestGround: paths that users of the guest can reach into are told from others.
func TestGround(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	make := func(name string, mode os.FileMode, owner int) {
		t.Helper()
		full := filepath.Join(dir, name)
		var err error
		if strings.HasSuffix(name, ".f") {
			err = os.WriteFile(full, nil, 0o644)
		} else {
			err = os.Mkdir(full, 0o755)
		}
		err = errors.Join(err, os.Chmod(full, mode))
		if owner != 0 {
			err = errors.Join(err, os.Lchown(full, owner, -1))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	make("own", 0o755, 0)
	make("own/x.f", 0o755, 0)
	make("open", 0o777, 0)
	make("open/x.f", 0o755, 0)
	make("group", 0o775, 0)
	if os.Geteuid() == 0 {
		if err := os.Chown(dir+"/group", 0, int(user.GID)); err != nil {
			t.Fatal(err)
		}
	}
	make("group/x.f", 0o755, 0)
	make("sticky", 0o777|os.ModeSticky, 0)
	make("sticky/x.f", 0o755, 0)
	link("own/x.f", "link")
	link("../own", "own/up")
	link(dir+"/own", "absolute")
	link("open/x.f", "out")
	link("loop", "loop")
	link("../own/x.f", "sticky/link")
	if err := unix.Mkfifo(dir+"/own/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{
		"own": true, "own/": true, "own/x.f": true, "open": true, "open/x.f": false, "group": true, "group/x.f": os.Geteuid() != 0 && os.Getegid() == os.Geteuid(),
		"sticky/x.f": true, "link": true, "own/up": true, "own/up/x.f": true, "absolute/x.f": true, "out": false, "loop": false,
		"sticky/link": true, "own/fifo": false, "own/x.f/y": false, "none": false, "own/../open/x.f": false,
	}
	if os.Geteuid() == 0 {
		make("theirs", 0o755, int(user.UID))
		make("theirs/x.f", 0o755, 0)
		make("sticky/theirs.f", 0o755, int(user.UID))
		make("own/theirs.f", 0o755, int(user.UID))
		want["theirs"], want["theirs/x.f"], want["sticky/theirs.f"], want["own/theirs.f"] = false, false, false, false
	}
	for path, ok := range want {
		if err := Ground(dir + "/" + path); (err == nil) != ok {
			t.Errorf("%s: %v, want %v", path, err, ok)
		}
	}
	for path, want := range map[string]error{"own/none": fs.ErrNotExist, "none/x": fs.ErrNotExist, "sticky/none": fs.ErrNotExist, "open/none": ErrReachable} {
		if err := Ground(dir + "/" + path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	for path, ok := range map[string]bool{"/": true, "": false, "bin/sh": false, "/bin/sh": true} {
		if err := Ground(path); (err == nil) != ok {
			t.Errorf("%s: %v, want %v", path, err, ok)
		}
	}
}

func BenchmarkGround(b *testing.B) {
	for b.Loop() {
		if err := Ground("/bin/true"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDo(b *testing.B) {
	own := account.Account{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	for name, a := range map[string]account.Account{"own": own, "user": user} {
		b.Run(name, func(b *testing.B) {
			if name == "user" && os.Geteuid() != 0 {
				b.Skip("needs root")
			}
			for b.Loop() {
				if err := Do(b.Context(), a, func() error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// hung returns a directory on a file system that answers nobody.
func hung(t *testing.T) (string, *hostile.HungFS) {
	t.Helper()
	needsRoot(t)
	dir := t.TempDir()
	fs, err := hostile.MountHung(dir, int(user.UID), int(user.GID), true)
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

// TestGroundDoesNotAsk: where a file system of a user's begins is seen without its
// answer.
func TestGroundDoesNotAsk(t *testing.T) {
	dir, fs := hung(t)
	for _, path := range []string{dir, dir + "/x", dir + "/x/y"} {
		if err := Ground(path); !errors.Is(err, ErrReachable) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n := fs.Requests(); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
	if err := Ground("/" + strings.Repeat("./", maxGround/2)); !errors.Is(err, ErrReachable) {
		t.Errorf("a long path: %v", err)
	}
}

// TestLook: a look at what does not answer ends with its context, and there are only
// so many.
func TestLook(t *testing.T) {
	dir, fs := hung(t)
	open := func(ctx context.Context, path string) error {
		f, err := Open(ctx, path, func() (*os.File, error) { return os.Open(path) })
		if err == nil {
			err = f.Close()
		}
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, maxLooks)
	for range maxLooks {
		go func() { errs <- open(ctx, dir+"/x") }()
	}
	<-fs.Asked()
	if err := open(t.Context(), "/proc/self/status"); err != nil {
		t.Errorf("another path: %v", err)
	}
	cancel()
	for range maxLooks {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if err := open(t.Context(), dir+"/x"); !errors.Is(err, ErrLooks) {
		t.Errorf("beyond the bound: %v", err)
	}
	if err := open(t.Context(), "/etc/passwd"); err != nil {
		t.Errorf("a path that no user reaches into: %v", err)
	}
	fs.End()
	wait.For(t, "the end of all looks", func() bool { return looks.Load() == 0 })
}
