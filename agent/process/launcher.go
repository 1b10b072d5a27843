//go:build linux

package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// The launcher is the agent's own binary, started again, which sets limits on
// itself and then becomes the session's program.
//
// os/exec can set neither resource limits, nor the umask, no_new_privs, the
// niceness or the capability bounding set of a child. All of these are a
// process's own to set, between fork and exec, where a Go program may not run
// code; and to set them from outside once the child runs (prlimit(2)) is too
// late, since it may have forked by then. A second exec of a program that is
// there anyway is the one way without a race and without cgo. It costs some
// milliseconds, so it is taken only where one of these is asked for.

// launcherName is argv[0] of a launcher.
const launcherName = "vsockrpc-launcher"

// The descriptors of a launcher, beside the standard three.
const (
	orderFD  = 3 // a memfd with the order
	reportFD = 4 // a pipe for what failed, closed by a successful exec
)

// order is what a launcher is told.
type order struct {
	Paths  [][]byte
	Argv   [][]byte
	Env    [][]byte
	Dir    []byte
	Switch bool
	UID    uint32
	GID    uint32
	Groups []uint32
	Limits processLimits
}

// report is what a launcher answers if it fails.
type report struct {
	Stage string // "exec" and "chdir" have faults of their own
	Path  []byte
	Errno syscall.Errno
}

// launcherReady says that main calls MaybeRunLauncher, so that the binary can
// be started as a launcher.
var launcherReady atomic.Bool

// MaybeRunLauncher must be called first in main by every program that has a
// Server. In a process that a Server started as its launcher it applies the
// session's limits, becomes the session's program, and never returns;
// everywhere else it returns at once. Without it, sessions with resource
// limits, niceness, umask, no_new_privs or dropped capabilities are refused; so
// are those that a policy allows by their arguments, unless the program's own limit
// of core files is 0.
func MaybeRunLauncher() {
	if len(os.Args) == 1 && os.Args[0] == launcherName {
		runLauncher()
	}
	launcherReady.Store(true)
}

// needsLauncher reports whether c asks for what a plain start cannot set. A
// program without the launcher keeps its own umask.
func (s *Server) needsLauncher(c *command) bool {
	inherited := s.umask
	if !launcherReady.Load() && c.limits.Umask == defaultUmask {
		inherited = defaultUmask
	}
	return c.limits.any(inherited)
}

// launch starts c through the launcher.
func (s *Server) launch(c *command, attr *syscall.SysProcAttr, fds [3]int) (child, error) {
	if !launcherReady.Load() {
		return child{}, newFault(codes.FailedPrecondition, reasonNoLauncher, "this agent cannot set resource limits, niceness, umask, no_new_privs or capabilities").
			Hint("its main must call process.MaybeRunLauncher first")
	}
	text, err := json.Marshal(order{
		Paths: toBytes(c.paths), Argv: toBytes(c.argv), Env: toBytes(c.env), Dir: []byte(c.dir),
		Switch: c.switches, UID: c.account.UID, GID: c.account.GID, Groups: c.account.Groups,
		Limits: c.limits,
	})
	if err != nil {
		return child{}, fmt.Errorf("encode the launcher's order: %w", err)
	}
	orders, err := unix.MemfdCreate(launcherName, unix.MFD_CLOEXEC)
	if err != nil {
		return child{}, explainStart("launch", err)
	}
	file := os.NewFile(uintptr(orders), launcherName)
	defer file.Close()
	if _, err := file.WriteAt(text, 0); err != nil {
		return child{}, explainStart("launch", err)
	}
	reports, w, err := os.Pipe()
	if err != nil {
		return child{}, explainStart("launch", err)
	}
	defer reports.Close()
	ch, err := s.fork("/proc/self/exe", []string{launcherName}, &syscall.ProcAttr{
		Dir:   "/",
		Sys:   attr,
		Files: []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2]), file.Fd(), w.Fd()},
	})
	w.Close()
	if err != nil {
		return child{}, explainStart("launch", err)
	}
	answer, err := io.ReadAll(io.LimitReader(reports, 1<<16))
	if err == nil && len(answer) == 0 {
		return ch, nil
	}
	var status unix.WaitStatus
	_, _ = waitPid(ch.pid, &status, nil)
	ch.waited()
	ch.close()
	var rep report
	if err = json.Unmarshal(answer, &rep); err != nil {
		return child{}, newFault(codes.Internal, reasonFailed, "the launcher failed: %v", err)
	}
	return child{}, rep.fault(c)
}

// fault is what a client is told of a launcher's failure.
func (r report) fault(c *command) error {
	path := string(r.Path)
	switch {
	case r.Stage == "exec":
		return execFault(c.dir, path, r.Errno)
	case r.Stage == "chdir":
		return badDir(path, r.Errno)
	case r.Errno == syscall.EPERM || r.Errno == syscall.EACCES:
		return notPermitted(r.Stage, path, r.Errno, "the agent may not do this in the guest: %s %s: %v", r.Stage, path, r.Errno)
	}
	return newFault(codes.FailedPrecondition, reasonFailed, "%s %s: %v", r.Stage, path, r.Errno).On(r.Stage, path, r.Errno)
}

func toBytes(list []string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

func toStrings(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = string(b)
	}
	return out
}

// runLauncher does not return.
func runLauncher() {
	// What follows is set on one thread, which becomes the program.
	runtime.LockOSThread()
	unix.CloseOnExec(orderFD)
	unix.CloseOnExec(reportFD)
	stage, path, err := obey()
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		errno = syscall.EIO
	}
	text, _ := json.Marshal(report{stage, []byte(path), errno})
	_, _ = unix.Write(reportFD, text)
	os.Exit(125)
}

// obey applies the order and executes the program. It returns what failed.
func obey() (stage, path string, err error) {
	var o order
	orders := os.NewFile(orderFD, launcherName)
	if err := json.NewDecoder(io.NewSectionReader(orders, 0, 1<<30)).Decode(&o); err != nil {
		return "launch", "", err
	}
	for _, l := range o.Limits.Rlimits {
		// Of package syscall, which otherwise would restore the soft limit of
		// open files at exec.
		if err := syscall.Setrlimit(l.Number, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return "setrlimit", l.Name, err
		}
	}
	if o.Limits.Nice != nil {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, *o.Limits.Nice); err != nil {
			return "nice", "", err
		}
	}
	if err := dropCapabilities(o.Limits.Capabilities); err != nil {
		return "drop-capabilities", "", err
	}
	if o.Switch {
		groups := make([]int, len(o.Groups))
		for i, g := range o.Groups {
			groups[i] = int(g)
		}
		if err := syscall.Setgroups(groups); err != nil {
			return "switch-user", "", err
		}
		if err := syscall.Setresgid(int(o.GID), int(o.GID), int(o.GID)); err != nil {
			return "switch-user", "", err
		}
		if err := syscall.Setresuid(int(o.UID), int(o.UID), int(o.UID)); err != nil {
			return "switch-user", "", err
		}
	}
	if o.Limits.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return "no-new-privileges", "", err
		}
	}
	unix.Umask(o.Limits.Umask)
	if err := os.Chdir(string(o.Dir)); err != nil {
		return "chdir", string(o.Dir), err
	}
	err = syscall.ENOENT
	for _, p := range o.Paths {
		path = string(p)
		err = syscall.Exec(path, toStrings(o.Argv), toStrings(o.Env))
		if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTDIR) {
			break
		}
	}
	return "exec", path, err
}

// dropCapabilities takes capabilities from the bounding set, so that no exec
// gives them back, and from the inheritable and ambient sets, which an exec
// would keep.
func dropCapabilities(drop []int) error {
	if len(drop) == 0 {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	for _, c := range drop {
		// A kernel that does not know one cannot grant it.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, syscall.EINVAL) {
			return err
		}
		data[c/32].Inheritable &^= 1 << (c % 32)
	}
	return unix.Capset(&header, &data[0])
}
