package hostile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A touch is a way for one process to get at a thread of another.
type touch struct {
	name string
	try  func(pid, tid int) error
}

var touches = []touch{
	{"kill", func(_, tid int) error { return unix.Kill(tid, 0) }},
	{"tgkill", func(pid, tid int) error { return unix.Tgkill(pid, tid, 0) }},
	{"prlimit", func(_, tid int) error {
		// To what it is, lest one that works be felt by the tests to come.
		var now unix.Rlimit
		if err := unix.Prlimit(tid, unix.RLIMIT_FSIZE, nil, &now); err != nil {
			return err
		}
		return unix.Prlimit(tid, unix.RLIMIT_FSIZE, &now, nil)
	}},
	{"ptrace", func(_, tid int) error { return touchCall(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, 0) }},
	{"sched_setaffinity", func(_, tid int) error {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(tid, &set); err != nil {
			return err
		}
		return unix.SchedSetaffinity(tid, &set)
	}},
	{"sched_setscheduler", func(_, tid int) error {
		const schedBatch = 3
		priority := int32(0)
		return touchCall(unix.SYS_SCHED_SETSCHEDULER, uintptr(tid), schedBatch, uintptr(unsafe.Pointer(&priority)), 0)
	}},
	{"setpriority", func(_, tid int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, 1) }},
	{"ioprio_set", func(_, tid int) error {
		const who, idle = 1, 3 << 13
		return touchCall(unix.SYS_IOPRIO_SET, who, uintptr(tid), idle, 0)
	}},
	{"process_vm_readv", func(_, tid int) error {
		var b [1]byte
		local := []unix.Iovec{{Base: &b[0], Len: 1}}
		_, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}, 0)
		if errors.Is(err, unix.EFAULT) {
			return nil // it was let in
		}
		return err
	}},
	{"pidfd_getfd", func(pid, tid int) error {
		if pid != tid {
			return unix.EPERM
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}},
	{"move_pages", func(_, tid int) error { return touchCall(unix.SYS_MOVE_PAGES, uintptr(tid), 0, 0, 0) }},
	procTouch("mem"), procTouch("environ"), procTouch("maps"), procTouch("auxv"), procTouch("syscall"), procTouch("fd"), procTouch("personality"),
}

func touchCall(number, a, b, c, d uintptr) error {
	if _, _, errno := unix.Syscall6(number, a, b, c, d, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// procTouch reads a file of the thread in /proc, or lists it.
func procTouch(name string) touch {
	return touch{"/proc " + name, func(pid, tid int) error {
		f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(tid), name))
		if err != nil {
			return err
		}
		defer f.Close()
		if name == "mem" {
			return nil
		}
		if info, err := f.Stat(); err == nil && info.IsDir() {
			_, err = f.Readdirnames(1)
			return err
		}
		_, err = f.Read(make([]byte, 1))
		return err
	}}
}

// Touch tries everything that the kernel offers to get at the threads of a process,
// each once, without harm should it work: to signal, limit, trace, read and starve
// them. It returns what worked or failed for another reason than that it may not,
// and how many threads there were.
func Touch(pid int) (worked []string, threads int) {
	tasks, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil {
		return []string{err.Error()}, 0
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			continue
		}
		threads++
		for _, t := range touches {
			switch err := t.try(pid, tid); {
			case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ESRCH), errors.Is(err, fs.ErrNotExist): // it may not, or the thread has gone
			case errors.Is(err, syscall.ENOSYS), errors.Is(err, unix.EINVAL) && tid != pid: // not of this kernel, or not of a thread
			default:
				worked = append(worked, fmt.Sprintf("%s of thread %d of %d: %v", t.name, tid, pid, err))
			}
		}
	}
	return worked, threads
}
