//go:build linux

package process

import (
	"container/list"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const (
	// killAfter is how long a process group has from TERM to KILL.
	killAfter = 2 * time.Second
	// drainAfter is how long output is waited for after the exit, if something
	// else holds the stream open.
	drainAfter = time.Second

	defaultGrace     = 5 * time.Second
	defaultRetention = 5 * time.Minute
	maxRetention     = 24 * time.Hour
)

// session is one process with its streams. Its goroutines are run, one pump for
// each output stream, and feed.
type session struct {
	srv       *Server
	account   charge.Account // who has started it
	id        sessionID
	spec      *guestv1.SessionSpec
	policy    guestv1.OwnerGone
	grace     time.Duration
	retention time.Duration
	seq       uint64        // in the order of start
	element   *list.Element // in Server.ended; under Server.mu
	expire    *time.Timer   // of the retention; under Server.mu

	// ready is closed once the process runs, or startErr says why not. Both,
	// and what follows up to mu, do not change after that.
	ready    chan struct{}
	startErr error
	cmd      *command
	io       *stdio
	child    child
	group    *cgroup // nil: none of its own
	family   family  // under mu
	started  time.Time
	warning  string // what people should know of the start
	floor    int64  // what ru_maxrss of the process has from the agent, at most

	oomEvents *os.File               // nil: not watched
	room      [outputs]chan struct{} // wakes a pump; each has a buffer of one
	widened   [outputs]bool          // the pipe; of the stream's pump
	fed       chan struct{}          // wakes feed
	done      chan struct{}          // closed when the session has its exit

	mu        sync.Mutex
	st        *state
	size      *guestv1.WindowSize // the last that was set
	exited    bool                // the process has ended, and may not be reaped yet
	reaped    bool
	waits     [outputs]bool // its pump, for room
	swept     [outputs]bool
	stopPumps bool
	held      bool          // output was cut
	closed    [outputs]bool // the owner wants no more of it
	ending    bool          // signals to end it were sent
	termAt    time.Time
	timedOut  bool
	reason    string
	leash     *countdown // runs while the owner is gone
	timeout   *countdown
	kill      *time.Timer
	forgotten bool   // not in the table any more
	consumed  bool   // to be forgotten once it has ended
	oomTold   uint64 // how many OOM kills watchers were told of
}

// start starts the process and what serves it.
func (s *session) start() error {
	cmd, err := s.srv.prepare(s.id, s.spec)
	if err != nil {
		return err
	}
	s.cmd = cmd
	if s.io, err = openStdio(s.spec, cmd.account); err != nil {
		return explainStart("open", err)
	}
	groupFD := -1
	if s.group, err = s.srv.cgroups.forSession(s.id, s.spec.Limits); err == nil {
		groupFD = s.srv.cgroups.fd(s.group)
		s.child, err = s.srv.spawn(cmd, s.io.fds, s.spec.Terminal != nil, groupFD)
	}
	s.io.closeChild()
	if err != nil {
		s.io.closeOwn()
		s.srv.cgroups.remove(s.group)
		return err
	}
	s.started = time.Now()
	if s.child.homeless != 0 {
		s.warning = fmt.Sprintf("cannot work in the home %q: %v; works in /", cmd.dir, s.child.homeless)
		s.srv.cfg.Logger.Warn("no home", "session", s.id, "dir", cmd.dir, "err", s.child.homeless)
	}
	// A process has its parent's from between fork and exec.
	var own unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &own) == nil {
		s.floor = own.Maxrss
	}
	s.family = family{pid: s.child.pid, mark: s.id.String(), group: s.group}
	s.st.in.connected = s.io.stdin != nil
	for i := range s.io.out {
		if s.io.out[i] == nil {
			s.st.out[i].eof, s.st.out[i].none = true, true
		}
	}
	if s.io.stdin != nil {
		go s.feed()
	}
	if s.spec.TimeoutMillis > 0 {
		s.timeout = startCountdown(millis(s.spec.TimeoutMillis), s.timeUp)
	}
	s.oomEvents = s.group.watchOOM(func() { s.srv.publishOOM(s) })
	// What was only to start it is not kept as long as its result.
	s.spec, s.cmd = slim(s.spec), &command{account: cmd.account}
	s.srv.publishStart(s)
	go s.run()
	return nil
}

// timeUp ends a session that has run for too long.
func (s *session) timeUp() {
	s.mu.Lock()
	s.timedOut = !s.exited && !s.ending
	s.mu.Unlock()
	s.end("its time was up", syscall.SIGTERM)
}

// run follows the process to its end.
func (s *session) run() {
	defer s.srv.wg.Done()
	var pumps sync.WaitGroup
	for i := range s.io.out {
		if s.io.out[i] != nil {
			pumps.Go(func() { s.pump(i) })
		}
	}
	awaitExit(s.child)
	s.mu.Lock()
	s.exited = true
	s.st.in.discard()
	s.mu.Unlock()
	s.stopFeed()
	for i := range s.room {
		wake(s.room[i]) // to sweep
	}
	cut := time.AfterFunc(drainAfter, s.cutOutput)
	pumps.Wait()
	cut.Stop()
	remaining := s.reap()
	s.io.closeOwn()
	s.srv.ended(s)
	close(s.done)
	if remaining {
		s.endLingering()
	}
	if s.oomEvents != nil {
		s.oomEvents.Close()
	}
	s.child.close()
	s.srv.cgroups.remove(s.group)
}

// stopFeed ends a write to a process that does not read.
func (s *session) stopFeed() {
	if s.io.stdin == nil {
		return
	}
	_ = s.io.stdin.SetWriteDeadline(pastDeadline)
	wake(s.fed)
}

// cutOutput stops the pumps: what the process wrote they take, what others
// write they do not wait for.
func (s *session) cutOutput() {
	s.mu.Lock()
	s.stopPumps = true
	s.mu.Unlock()
	for i, f := range s.io.out {
		if f != nil {
			_ = f.SetReadDeadline(pastDeadline)
			wake(s.room[i])
		}
	}
}

// reap takes the exit status and makes the session's result. It reports whether
// processes of the session are left that are to be ended. Those of a session that
// was not ended, and does not ask for it, go on.
func (s *session) reap() (remaining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid := s.child.pid
	endAll := s.ending || s.spec.KillRemaining
	if endAll && !s.ending {
		// The process is not reaped, so its number is still its own.
		s.termAt = time.Now()
		s.family.signal(unix.SIGTERM, unix.SIGCONT)
	}
	var status unix.WaitStatus
	var usage unix.Rusage
	_, err := waitPid(pid, &status, &usage)
	s.reaped = true
	s.child.waited()
	s.leash.stop()
	s.timeout.stop()
	if s.kill != nil {
		s.kill.Stop()
	}
	s.st.exit = s.makeExit(status, usage, err)
	s.wakeReaders()
	return endAll
}

// makeExit is called under mu.
func (s *session) makeExit(status unix.WaitStatus, usage unix.Rusage, err error) *guestv1.Exit {
	exit := &guestv1.Exit{
		TimedOut:       s.timedOut,
		OutputHeldOpen: s.held,
		Reason:         s.reason,
		StartUnixNanos: s.started.UnixNano(),
		EndUnixNanos:   time.Now().UnixNano(),
		StdinBytes:     s.st.in.carried,
		StdoutBytes:    s.st.out[stdout].end,
		StderrBytes:    s.st.out[stderr].end,
		Usage: &guestv1.ResourceUsage{
			UserMicros:   uint64(usage.Utime.Nano() / 1e3),
			SystemMicros: uint64(usage.Stime.Nano() / 1e3),
		},
	}
	if usage.Maxrss > s.floor {
		exit.Usage.MaxResidentBytes = uint64(usage.Maxrss) << 10
	}
	switch {
	case err != nil:
		// Something else in the process has waited for it.
		exit.Reason = "its exit status was lost: " + err.Error()
		exit.Signal = uint32(unix.SIGKILL)
	case status.Signaled():
		exit.Signal, exit.CoreDumped = uint32(status.Signal()), status.CoreDump()
	default:
		exit.Code = new(uint32(status.ExitStatus()))
	}
	// 137 is how a shell says that what it ran was killed.
	if (exit.Signal == uint32(unix.SIGKILL) || exit.GetCode() == 128+9) && !s.ending && s.group.oomKills() > 0 {
		exit.OomKilled, exit.Reason = true, "out of memory"
	}
	return exit
}

// info describes the session.
func (s *session) info() *guestv1.SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.describe()
}

// describe is info under mu.
func (s *session) describe() *guestv1.SessionInfo {
	out := &s.st.out
	info := &guestv1.SessionInfo{
		SessionId:      s.id[:],
		Name:           s.spec.Name,
		Pid:            uint32(s.child.pid),
		Args:           s.spec.Args,
		User:           []byte(s.cmd.account.Name),
		Terminal:       s.spec.Terminal != nil,
		Stdin:          s.st.in.connected,
		StartUnixNanos: s.started.UnixNano(),
		Exit:           s.st.exit,
		HasOwner:       s.st.owner != nil,
		StdoutFirst:    out[stdout].first,
		StdoutEnd:      out[stdout].end,
		StderrFirst:    out[stderr].first,
		StderrEnd:      out[stderr].end,
		StdinOffset:    s.st.in.end,
		OwnerGone:      s.policy,
		Warning:        s.warning,
		RingFull:       guestv1.RingFull_RING_FULL_BLOCK,

		StdoutAcknowledged: out[stdout].acked,
		StderrAcknowledged: out[stderr].acked,
	}
	if out[stdout].drop {
		info.RingFull = guestv1.RingFull_RING_FULL_DROP_OLDEST
	}
	info.Observers = uint32(len(s.st.readers))
	if info.HasOwner {
		info.Observers--
	}
	return info
}

// wakeReaders is called under mu.
func (s *session) wakeReaders() {
	for r := range s.st.readers {
		wake(r.wake)
	}
}

// wake wakes who waits for c, which has a buffer of one, now or later.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func millis(n uint64) time.Duration {
	const most = uint64(1<<63-1) / uint64(time.Millisecond)
	return time.Duration(min(n, most)) * time.Millisecond
}
