//go:build linux

package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/launch"
)

// launcherReady says that main calls MaybeRunLauncher, so that the binary can
// be started as a launcher.
var launcherReady atomic.Bool

// MaybeRunLauncher must be called first in main by every program that has a
// Server. In a process that a Server started as its launcher it never returns.
// Everywhere else it marks the descriptors above 2 that the process was started
// with, so that no session inherits them, and returns. Without it, sessions of
// other users, and those with resource limits, niceness, umask, no_new_privs or
// dropped capabilities, are refused; so are those that a policy allows by their
// arguments, unless the program's own limit of core files is 0. The working
// directories and programs of all others can make the whole Server wait.
func MaybeRunLauncher() {
	if f := launch.Failed(); f != nil {
		// Only here, where it costs no launcher that works, and with the rights of
		// the user.
		text, _ := json.Marshal(launchFault(f))
		_, _ = unix.Write(launch.ReportFD, text)
		os.Exit(125)
	}
	launch.CloseOnExec(3)
	launcherReady.Store(true)
}

// maxReport bounds what a launcher may report, in bytes.
const maxReport = 1 << 16

// maxStuck bounds the launchers of one user that were given up and have not ended.
const maxStuck = 16

// needsLauncher reports whether c asks for what a plain start cannot set, or for
// another user. A program without the launcher keeps its own umask.
func (s *Server) needsLauncher(c *command) bool {
	inherited := s.umask
	if !launcherReady.Load() && c.limits.Umask == defaultUmask {
		inherited = defaultUmask
	}
	return c.account.UID != s.uid || c.limits.any(inherited)
}

// launch starts c through a launcher, which has StartTimeout to become the program.
func (s *Server) launch(c *command, attr *syscall.SysProcAttr, fds [3]int) (child, error) {
	if !launcherReady.Load() {
		return child{}, newFault(codes.FailedPrecondition, reasonNoLauncher, "this agent cannot start programs of other users, nor set resource limits, niceness, umask, no_new_privs or capabilities").
			Hint("its main must call process.MaybeRunLauncher first")
	}
	if n := s.stuck.of(c.account.UID); n >= maxStuck {
		return child{}, newFault(codes.ResourceExhausted, reasonStartTimeout, "%d programs of user %d have not started in time, and cannot be ended", n, c.account.UID).
			Hint("look at what they wait for: a file system that does not answer?")
	}
	orders, err := unix.MemfdCreate(launch.Name, unix.MFD_CLOEXEC)
	if err != nil {
		return child{}, explainStart("launch", err)
	}
	file := os.NewFile(uintptr(orders), launch.Name)
	defer file.Close()
	if _, err := file.WriteAt(c.order().Encode(), 0); err != nil {
		return child{}, explainStart("launch", err)
	}
	reports, w, err := os.Pipe()
	if err != nil {
		return child{}, explainStart("launch", err)
	}
	defer reports.Close()
	ch, err := s.fork("/proc/self/exe", []string{launch.Name}, &syscall.ProcAttr{
		Dir:   "/",
		Sys:   attr,
		Files: []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2]), file.Fd(), w.Fd()},
	})
	w.Close()
	if err != nil {
		return child{}, explainStart("launch", err)
	}
	answer, err := s.readReport(reports)
	ch.homeless, answer = cutHomeNote(answer)
	if err == nil && len(answer) == 0 {
		return ch, nil
	}
	s.giveUp(c.account.UID, ch)
	if errors.Is(err, os.ErrDeadlineExceeded) && s.starting.Err() != nil {
		return child{}, stoppingFault()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return child{}, newFault(codes.DeadlineExceeded, reasonStartTimeout, "%q has not started within %v", c.paths[0], s.cfg.StartTimeout).
			On("exec", c.paths[0], nil).Hint("its file or working directory may be on a file system that does not answer, or its user has stopped it")
	}
	failed := new(fault)
	if err == nil {
		err = json.Unmarshal(answer, failed)
	}
	if err != nil {
		return child{}, newFault(codes.Internal, reasonFailed, "the launcher failed: %v", err)
	}
	return child{}, failed
}

// order is what a launcher of c is told.
func (c *command) order() *launch.Order {
	return &launch.Order{
		Paths: c.paths, Name: c.name, Search: c.search, Argv: c.argv, Env: c.env, Dir: c.dir, Home: c.home,
		Switch: c.switches, UID: c.account.UID, GID: c.account.GID, Groups: c.account.Groups,
		Rlimits: c.limits.Rlimits, Nice: c.limits.Nice, Umask: c.limits.Umask, NoNewPrivs: c.limits.NoNewPrivs, Capabilities: c.limits.Capabilities,
	}
}

// readReport reads what a launcher says, which is nothing if it worked, until its
// time is up or the Server is closed.
func (s *Server) readReport(reports *os.File) ([]byte, error) {
	if err := reports.SetReadDeadline(time.Now().Add(s.cfg.StartTimeout)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(s.starting, func() { _ = reports.SetReadDeadline(pastDeadline) })
	defer stop()
	return io.ReadAll(io.LimitReader(reports, maxReport))
}

// cutHomeNote cuts off the report what it says of the home.
func cutHomeNote(report []byte) (homeless syscall.Errno, rest []byte) {
	line, rest, _ := bytes.Cut(report, []byte("\n"))
	number, ok := bytes.CutPrefix(line, []byte(launch.HomeNote))
	if !ok {
		return 0, report
	}
	n, _ := strconv.Atoi(string(number))
	return syscall.Errno(n), rest
}

// giveUp ends a launcher that has not become its program, and waits for it, but
// not here: what waits for a file system that does not answer cannot be ended.
func (s *Server) giveUp(uid uint32, ch child) {
	_ = unix.Kill(ch.pid, unix.SIGKILL) // not reaped yet, so the number is its own
	s.stuck.add(uid, 1)
	go func() {
		defer s.stuck.add(uid, -1)
		awaitExit(ch)
		var status unix.WaitStatus
		_, _ = waitPid(ch.pid, &status, nil)
		ch.waited()
		ch.close()
	}()
}

// launchFault is what a client is told of a launcher's failure.
func launchFault(f *launch.Failure) *fault {
	switch {
	case f.Stage == "lookup":
		return lookupFault(f.Order.Name, f.Order.Search, f.Path)
	case f.Stage == "exec":
		return execFault("", f.Path, f.Errno) // relative to where it is
	case f.Stage == "chdir":
		return badDir(f.Path, f.Errno)
	case f.Stage == "switch-user" && f.Errno == syscall.EPERM:
		return cannotSwitch("", f.Order.UID, f.Order.GID, f.Errno)
	case f.Errno == syscall.EPERM || f.Errno == syscall.EACCES:
		return notPermitted(f.Stage, f.Path, f.Errno, "the agent may not do this in the guest: %s %s: %v", f.Stage, f.Path, f.Errno)
	}
	return newFault(codes.FailedPrecondition, reasonFailed, "%s %s: %v", f.Stage, f.Path, f.Errno).On(f.Stage, f.Path, f.Errno)
}
