//go:build linux

package reap

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A round that left something behind is repeated without a signal: a registered
// child that is dead but not waited for hides the orphans behind it from
// waitid. The pause between such rounds doubles from the first to the last.
const (
	firstRecheck = 50 * time.Millisecond
	lastRecheck  = time.Second
)

// Reaper waits for the orphans of this process. It is made by Start.
type Reaper struct {
	log     *slog.Logger
	signals chan os.Signal
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once
}

// Start makes this process a child subreaper, if it is not PID 1, and reaps
// orphans until Close. It must be called before the first process is started,
// at most once at a time in a process. A nil log means slog.Default.
func Start(log *slog.Logger) (*Reaper, error) {
	if log == nil {
		log = slog.Default()
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil && os.Getpid() != 1 {
		return nil, fmt.Errorf("become a child subreaper: %w", err)
	}
	r := &Reaper{
		log: log,
		// One pending signal is enough: a round looks at every child.
		signals: make(chan os.Signal, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	signal.Notify(r.signals, unix.SIGCHLD)
	go r.run()
	return r, nil
}

// Close stops reaping and returns when the reaper has stopped. The process
// stays a child subreaper. Close may be called more than once.
func (r *Reaper) Close() {
	r.once.Do(func() {
		signal.Stop(r.signals)
		close(r.stop)
	})
	<-r.done
}

func (r *Reaper) run() {
	defer close(r.done)
	again := time.NewTimer(0) // what died before Start
	defer again.Stop()
	pause := firstRecheck
	for {
		select {
		case <-r.stop:
			return
		case <-r.signals:
			pause = firstRecheck
		case <-again.C:
			pause = min(2*pause, lastRecheck)
		}
		if !r.round() {
			again.Reset(pause)
		}
	}
}

// round reaps every orphan that is dead. It reports false if a registered child
// was dead too, since an orphan that dies while it is still there could be
// missed.
func (r *Reaper) round() bool {
	children.starting.Lock()
	defer children.starting.Unlock()
	for {
		pid, err := deadChild()
		if err != nil || pid == 0 {
			return true
		}
		if registered(pid) {
			break
		}
		r.wait(pid)
	}
	// waitid shows the oldest dead child only, so look behind it.
	pids, err := deadChildren()
	if err != nil {
		r.log.Warn("list dead children", "err", err)
		return false
	}
	for _, pid := range pids {
		if !registered(pid) {
			r.wait(pid)
		}
	}
	return false
}

// wait takes the status of a dead orphan.
func (r *Reaper) wait(pid int) {
	var status unix.WaitStatus
	got, err := ignoringEINTR(func() (int, error) { return unix.Wait4(pid, &status, unix.WNOHANG, nil) })
	if err != nil {
		r.log.Warn("reap", "pid", pid, "err", err)
		return
	}
	if got != pid {
		return // its other threads still run
	}
	r.log.Debug("reaped an orphan", "pid", pid, "code", status.ExitStatus(), "signal", int(status.Signal()))
}

// deadChild returns the pid of a child that is dead and not waited for, and
// leaves it so; 0 if there is none.
func deadChild() (int, error) {
	var info childInfo
	_, err := ignoringEINTR(func() (int, error) {
		return 0, unix.Waitid(unix.P_ALL, 0, info.siginfo(), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if errors.Is(err, unix.ECHILD) {
		return 0, nil
	}
	return info.pid(), err
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// deadChildren lists the dead children of this process from /proc.
func deadChildren() ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	self := strconv.Itoa(os.Getpid())
	var pids []int
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // gone
		}
		// PID (NAME) STATE PPID ..., where NAME may hold anything.
		text := string(stat)
		rest := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(rest) < 2 || rest[0] != "Z" || rest[1] != self {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
