package launch

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Name is argv[0] of a launcher, which has no arguments.
const Name = "vsockrpc-launcher"

// The descriptors of a launcher, beside the standard three.
const (
	OrderFD  = 3 // a file with the order
	ReportFD = 4 // a pipe for what failed, closed by a successful exec
)

// HomeNote begins a line of the report that is no failure: the home cannot be entered,
// for the reason whose number follows, and / is the working directory.
const HomeNote = "home "

// Failure says what a launcher could not do.
type Failure struct {
	// Stage is what it did. After "lookup" Path is a file that is no program, if
	// there was one, after "exec" the program, after "chdir" the directory.
	Stage string
	Path  string
	Errno syscall.Errno
	Order Order
}

// failure is set in a launcher, unless it has become its program.
var failure *Failure

// Failed returns what failed in this process, if it was started as a launcher;
// otherwise nil. The calling goroutine has to be the one of main: it alone has
// the rights that the program would have had.
func Failed() *Failure { return failure }

func init() {
	if len(os.Args) != 1 || os.Args[0] != Name {
		return
	}
	// For good: what is set here is the thread's.
	runtime.LockOSThread()
	failure = run()
}

// run does not return if it works.
func run() *Failure {
	f := &Failure{Stage: "launch"}
	CloseOnExec(OrderFD)
	resetSignals()
	text, err := readAll(OrderFD)
	if err != nil {
		f.Errno = errnoOf(err)
		return f
	}
	var ok bool
	if f.Order, ok = decode(text); !ok {
		f.Errno = syscall.EBADMSG
		return f
	}
	f.Stage, f.Path, err = f.Order.obey()
	f.Errno = errnoOf(err)
	return f
}

// lastSignal is the highest signal number of Linux, on all architectures but MIPS.
const lastSignal = 64

// resetSignals gives every signal its default action, and blocks none: what was
// ignored or blocked would be so in the program too.
func resetSignals() {
	var action [8]uint64 // more than a struct sigaction
	for sig := uintptr(1); sig <= lastSignal; sig++ {
		if sig == setIDsSignal {
			continue
		}
		// It fails for KILL and STOP.
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, lastSignal/8, 0, 0)
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil)
}

// CleanSignals reports whether what this thread executes has the default action for
// every signal, and blocks none.
func CleanSignals() bool {
	var blocked unix.Sigset_t
	if unix.PthreadSigmask(unix.SIG_SETMASK, nil, &blocked) != nil || blocked != (unix.Sigset_t{}) {
		return false
	}
	for sig := uintptr(1); sig < setIDsSignal; sig++ {
		var action [8]uintptr // the first is the handler
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&action)), lastSignal/8, 0, 0)
		if errno == 0 && action[0] == ignored {
			return false
		}
	}
	return true
}

const (
	ignored = 1 // SIG_IGN
	// setIDsSignal is how threads are told to change their ids. Go has handlers for it
	// and for the real-time signals after it. The one before it is the C library's, whose
	// posix_spawn leaves it ignored in what it starts, such as all that make does.
	setIDsSignal = 33
)

func errnoOf(err error) syscall.Errno {
	if errno, ok := err.(syscall.Errno); ok {
		return errno
	}
	return syscall.EIO
}

// obey applies the order and executes the program. It returns what failed.
func (o *Order) obey() (stage, path string, err error) {
	for _, l := range o.Rlimits {
		// Of package syscall, which otherwise would restore the soft limit of
		// open files at exec.
		if err := syscall.Setrlimit(l.Number, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return "setrlimit", l.Name, err
		}
	}
	if o.Nice != nil {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, *o.Nice); err != nil {
			return "nice", "", err
		}
	}
	if err := dropCapabilities(o.Capabilities); err != nil {
		return "drop-capabilities", "", err
	}
	if o.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return "no-new-privileges", "", err
		}
	}
	unix.Umask(o.Umask)
	if o.Switch {
		if err := o.become(); err != nil {
			return "switch-user", "", err
		}
	}
	// From here on the user may be at work.
	err = syscall.Chdir(o.Dir)
	if o.Home && (err == syscall.ENOENT || err == syscall.ENOTDIR || err == syscall.EACCES) {
		note := append(strconv.AppendInt([]byte(HomeNote), int64(err.(syscall.Errno)), 10), '\n')
		_, _ = unix.Write(ReportFD, note)
		err = syscall.Chdir("/")
	}
	if err != nil {
		return "chdir", o.Dir, err
	}
	return o.exec()
}

// exec executes the first of the paths that works.
func (o *Order) exec() (stage, path string, err error) {
	stage, err = "lookup", syscall.ENOENT
	for _, p := range o.Paths {
		if o.Name != "" {
			var st syscall.Stat_t
			if syscall.Stat(p, &st) != nil {
				continue
			}
			if st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Mode&0o111 == 0 {
				if stage == "lookup" {
					path = p
				}
				continue
			}
		}
		stage, path = "exec", p
		err = syscall.Exec(p, o.Argv, o.Env)
		if err != syscall.EACCES && err != syscall.ENOENT && err != syscall.ENOTDIR {
			break
		}
	}
	return stage, path, err
}

// become takes the ids of the order for good.
func (o *Order) become() error {
	groups := make([]int, len(o.Groups))
	for i, g := range o.Groups {
		groups[i] = int(g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return err
	}
	if err := syscall.Setresgid(int(o.GID), int(o.GID), int(o.GID)); err != nil {
		return err
	}
	if err := syscall.Setresuid(int(o.UID), int(o.UID), int(o.UID)); err != nil {
		return err
	}
	// It is so by now, unless fs.suid_dumpable is 1.
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
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
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != syscall.EINVAL {
			return err
		}
		data[c/32].Inheritable &^= 1 << (c % 32)
	}
	return unix.Capset(&header, &data[0])
}

const maxDescriptor = 1<<31 - 1

// CloseOnExec marks every open descriptor from first on, so that no program gets
// it that this process executes.
func CloseOnExec(first int) {
	if unix.CloseRange(uint(first), maxDescriptor, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Before Linux 5.11.
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // as many as there are
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}
