//go:build linux

package process

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/launch"
	"github.com/vsockrpc/vsockrpc/agent/internal/subject"
	"github.com/vsockrpc/vsockrpc/internal/reap"
)

// child is a process that was started and is not waited for.
type child struct {
	pid      int
	handle   *os.File      // its pidfd, for the poller; nil: the kernel has none
	waited   func()        // to be called after the wait
	homeless syscall.Errno // why it does not run in its home; 0: it does
}

// close gives up the handle.
func (c child) close() {
	if c.handle != nil {
		c.handle.Close()
	}
}

// spawn starts c with the descriptors of fds as 0, 1 and 2, in a cgroup if that
// is not -1. On a terminal, fds are the terminal three times. The caller closes
// fds.
//
// A program of the agent's own user is forked and executed right here, if users of
// the guest can reach into nothing that this waits for. All others have a launcher.
func (s *Server) spawn(c *command, fds [3]int, terminal bool, cgroup int) (child, error) {
	attr := &syscall.SysProcAttr{Setsid: true, Setctty: terminal}
	if cgroup >= 0 {
		attr.UseCgroupFD, attr.CgroupFD = true, cgroup
	}
	if s.needsLauncher(c) || launcherReady.Load() && !launch.CleanSignals() {
		return s.launch(c, attr, fds)
	}
	path, dir, homeless, ok := onGround(c)
	if !ok && launcherReady.Load() {
		return s.launch(c, attr, fds)
	}
	if !ok {
		var err error
		if path, dir, homeless, err = c.lookUp(); err != nil {
			return child{}, err
		}
	}
	if c.switches {
		attr.Credential = &syscall.Credential{Uid: c.account.UID, Gid: c.account.GID, Groups: c.account.Groups}
	}
	ch, err := s.fork(path, c.argv, &syscall.ProcAttr{Dir: dir, Env: c.env, Sys: attr, Files: []uintptr{uintptr(fds[0]), uintptr(fds[1]), uintptr(fds[2])}})
	if err == nil {
		ch.homeless = homeless
		return ch, nil
	}
	if errno, _ := errors.AsType[syscall.Errno](err); resourceFault(errno) == nil && launcherReady.Load() {
		// It finds out what is wrong, or another candidate.
		attr.Credential = nil
		return s.launch(c, attr, fds)
	}
	return child{}, explain(c, path, dir, err)
}

// onGround returns what of c to execute and where, if users of the guest can reach
// into neither. It has other answers than the launcher where that one would find
// nothing either.
func onGround(c *command) (path, dir string, homeless syscall.Errno, ok bool) {
	dir = c.dir
	switch err := subject.Ground(dir); {
	case errors.Is(err, fs.ErrNotExist) && c.home:
		dir, homeless = "/", syscall.ENOENT
	case err != nil:
		return "", "", 0, false
	}
	for _, path := range c.paths {
		switch err := subject.Ground(path); {
		case err == nil:
			return path, dir, homeless, interpretersOnGround(path)
		case !errors.Is(err, fs.ErrNotExist):
			return "", "", 0, false
		}
	}
	return "", "", 0, false
}

// interpretersOnGround reports whether users of the guest can reach into none of
// the interpreters of a script, which is none of theirs.
func interpretersOnGround(path string) bool {
	const most = 5 // as the kernel goes
	for range most {
		name := scriptInterpreter(head(path))
		if name == "" {
			return true
		}
		if subject.Ground(name) != nil {
			return false
		}
		path = name
	}
	return false
}

// fork starts one program, registered with the reaper.
func (s *Server) fork(path string, argv []string, attr *syscall.ProcAttr) (child, error) {
	var ch child
	pidfd := -1
	attr.Sys.PidFD = &pidfd
	var err error
	ch.waited, err = reap.Child(func() (int, error) {
		defer s.oom.enter()()
		var err error
		ch.pid, _, err = syscall.StartProcess(path, argv, attr)
		return ch.pid, err
	})
	if err != nil {
		return child{}, err
	}
	if pidfd >= 0 && unix.SetNonblock(pidfd, true) == nil {
		ch.handle = os.NewFile(uintptr(pidfd), "pidfd")
	}
	return ch, nil
}

// explainStart is for what fails before the program is executed.
func explainStart(op string, err error) error {
	if f, ok := errors.AsType[*fault](err); ok {
		return f
	}
	errno, _ := errors.AsType[syscall.Errno](err)
	f := resourceFault(errno)
	if f == nil {
		f = newFault(codes.FailedPrecondition, reasonFailed, "%s: %v", op, err)
	}
	return f.On(op, "", err)
}

// explain says which of the things that execve(2) and what comes before it can
// fail at it was. The kernel tells them apart by errno only.
func explain(c *command, path, dir string, err error) error {
	errno, _ := errors.AsType[syscall.Errno](err)
	if f := resourceFault(errno); f != nil {
		return f.On("fork", "", err)
	}
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.EACCES, syscall.ELOOP, syscall.ENAMETOOLONG:
		if f := dirFault(dir, errno); f != nil {
			return f
		}
	case syscall.EPERM:
		return cannotSwitch(c.account.Name, c.account.UID, c.account.GID, errno)
	}
	return execFault(dir, path, err)
}

func cannotSwitch(name string, uid, gid uint32, err error) *fault {
	return notPermitted("switch-user", name, err, "cannot run as user %d, group %d: %v", uid, gid, err)
}

func notPermitted(op, path string, err error, format string, args ...any) *fault {
	return newFault(codes.PermissionDenied, reasonNotPermitted, format, args...).
		On(op, path, err).Hint("the agent must run as root in the guest for this")
}

// resourceFault is for the errors which mean that the guest is full.
func resourceFault(errno syscall.Errno) *fault {
	switch errno {
	case syscall.EAGAIN:
		return newFault(codes.ResourceExhausted, reasonNoProcesses, "the guest can start no more processes")
	case syscall.EMFILE, syscall.ENFILE, syscall.EBADF:
		// EBADF: before it executes the program, syscall.StartProcess moves a
		// descriptor behind the others, with dup3(2), which says that of a number
		// that is RLIMIT_NOFILE or more.
		return newFault(codes.ResourceExhausted, reasonNoFiles, "the agent can open no more files")
	case syscall.ENOMEM:
		return newFault(codes.ResourceExhausted, reasonNoMemory, "the guest is out of memory")
	}
	return nil
}

// dirFault returns what is wrong with the working directory, or nil.
func dirFault(dir string, errno syscall.Errno) *fault {
	info, err := os.Stat(dir)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		err = syscall.ENOTDIR
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		errno = e
	}
	return badDir(dir, errno)
}

func badDir(dir string, errno syscall.Errno) *fault {
	return newFault(codes.FailedPrecondition, reasonBadDir, "cannot work in directory %q: %v", dir, errno).On("chdir", dir, errno)
}

// execFault is for execve(2)'s own errors. path is relative to dir.
func execFault(dir, path string, err error) *fault {
	errno, _ := errors.AsType[syscall.Errno](err)
	file := path
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	var f *fault
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG:
		// A file that is there and "does not exist" lacks what it names first.
		if _, statErr := os.Stat(file); statErr == nil && hasCRLF(head(file)) {
			f = newFault(codes.FailedPrecondition, reasonNoInterpreter, "%q has Windows line ends (CR LF): its first line names the interpreter %q, which is not there",
				path, interpreter(file)+"\r").Hint("convert it in the guest: sed -i 's/\\r$//' " + path)
		} else if statErr == nil {
			f = newFault(codes.FailedPrecondition, reasonNoInterpreter, "%q needs %q, which is not there", path, interpreter(file))
		} else {
			f = newFault(codes.NotFound, reasonNotFound, "%q is not there: %v", path, errno)
		}
	case syscall.EACCES, syscall.EISDIR:
		f = newFault(codes.FailedPrecondition, reasonNotExecutable, "%q is not executable", path)
	case syscall.ENOEXEC:
		f = formatFault(file, path)
	case syscall.E2BIG:
		f = newFault(codes.InvalidArgument, reasonArgsTooLong, "the kernel takes no arguments and environment of this size").
			Hint("pass the data through stdin or a file")
	default:
		f = resourceFault(errno)
	}
	if f == nil {
		f = newFault(codes.FailedPrecondition, reasonFailed, "cannot execute %q: %v", path, err)
	}
	return f.On("exec", path, errno)
}

// head returns the first bytes of a file, as execve(2) looks at them.
func head(file string) []byte {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	buf := make([]byte, 256)
	n, _ := io.ReadFull(f, buf)
	return buf[:n]
}

// interpreter returns what a program needs to be executed: the interpreter of a
// script, or the loader of an ELF file.
func interpreter(file string) string {
	if name := scriptInterpreter(head(file)); name != "" {
		return name
	}
	if bin, ok := readELF(file); ok && bin.loader != "" {
		return bin.loader
	}
	return "an interpreter"
}

// scriptInterpreter returns the file that the first line of a script names; "" if
// it is none.
func scriptInterpreter(start []byte) string {
	line, ok := bytes.CutPrefix(start, []byte("#!"))
	if !ok {
		return ""
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	if words := bytes.Fields(line); len(words) > 0 {
		return string(words[0])
	}
	return ""
}

// hasCRLF reports whether the first line of a script names its interpreter alone, and
// ends as lines do on Windows: for the kernel the carriage return is part of the name.
func hasCRLF(start []byte) bool {
	line, _, _ := bytes.Cut(start, []byte("\n"))
	rest, ok := bytes.CutSuffix(line, []byte("\r"))
	return ok && len(bytes.Fields(rest)) <= 2 && scriptInterpreter(rest) != ""
}

// formatFault is for ENOEXEC.
func formatFault(file, path string) *fault {
	start := head(file)
	if bytes.HasPrefix(start, []byte(elfMagic)) {
		bin, ok := readELF(file)
		if !ok {
			return newFault(codes.FailedPrecondition, reasonBadFormat, "%q is a damaged ELF file", path)
		}
		return newFault(codes.FailedPrecondition, reasonWrongArch, "%q is for another machine: %s", path, bin.machine)
	}
	if len(start) == 0 || bytes.IndexByte(start, 0) >= 0 {
		return newFault(codes.FailedPrecondition, reasonBadFormat, "%q is not a program", path)
	}
	return newFault(codes.FailedPrecondition, reasonNoInterpreter, "%q is a script that does not begin with #!", path).
		Hint("name its interpreter: sh " + path)
}
