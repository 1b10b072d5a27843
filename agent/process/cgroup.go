//go:build linux

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// cgroupRoots is where cgroup v2 may be: alone, or beside version 1 and then without
// controllers.
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

const (
	// agentLeaf is the agent's own cgroup: one with controllers for its children
	// may hold no process itself. systemd makes one of this name by
	// DelegateSubgroup=agent.
	agentLeaf = "agent"
	// sessionsGroup holds the cgroups of all sessions, sharedGroup those
	// sessions for which none could be made.
	sessionsGroup = "vsockrpc-sessions"
	sharedGroup   = "shared"
	// cpu.weight is 100 where nobody sets it.
	agentWeight    = 1000
	sessionsWeight = 50
	// spareTasks is how many tasks of the kernel's limit sessions cannot use. An
	// agent that can make no thread does not survive.
	spareTasks = 256
	// leastSweep and mostSweep bound how long it takes until a cgroup that could not
	// be removed is tried again.
	leastSweep = 10 * time.Millisecond
	mostSweep  = time.Minute
)

// cgroups makes the cgroups of sessions, of version 2. A nil *cgroups makes
// none.
type cgroups struct {
	root        string // where version 2 is mounted
	dir         string // of all sessions
	controllers []string

	mu       sync.Mutex
	shared   *os.File   // the directory of those without one of their own
	lost     []*os.File // earlier ones; one may still be in use for a start
	leftover []string   // could not be removed: something still runs there
	again    *time.Timer
	wait     time.Duration // before the next try
}

// cgroup is one session's own; nil: none.
type cgroup struct {
	path    string
	dir     *os.File
	limited bool // its memory
}

// newCgroups moves the agent to a leaf, and makes the cgroup of all sessions.
// protect gives the agent more weight than those, and spares it some tasks.
func newCgroups(protect bool) (*cgroups, error) {
	root := slices.IndexFunc(cgroupRoots, func(dir string) bool {
		var fs unix.Statfs_t
		return unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
	})
	if root < 0 {
		return nil, errors.New("the guest has no cgroup v2")
	}
	own, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	c := &cgroups{root: cgroupRoots[root]}
	parent := filepath.Join(c.root, own)
	if filepath.Base(parent) == agentLeaf {
		parent = filepath.Dir(parent)
	}
	text, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
	if err != nil {
		return nil, err
	}
	available := slices.DeleteFunc(strings.Fields(string(text)), func(name string) bool {
		return name != "memory" && name != "pids" && name != "cpu"
	})
	// The root may have both processes and children with controllers.
	if own != "/" && parent == filepath.Join(c.root, own) && len(available) > 0 {
		leaf := filepath.Join(parent, agentLeaf)
		if err := makeDir(leaf); err != nil {
			return nil, err
		}
		if err := writeCgroup(leaf, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
			return nil, err
		}
	}
	c.dir = filepath.Join(parent, sessionsGroup)
	if err := makeDir(c.dir); err != nil {
		return nil, err
	}
	for _, name := range available {
		if err := writeCgroup(parent, "cgroup.subtree_control", "+"+name); err != nil {
			return nil, err
		}
		if err := writeCgroup(c.dir, "cgroup.subtree_control", "+"+name); err != nil {
			return nil, err
		}
		c.controllers = append(c.controllers, name)
	}
	shared := filepath.Join(c.dir, sharedGroup)
	if err := makeDir(shared); err != nil {
		return nil, err
	}
	if c.shared, err = openDir(shared); err != nil {
		return nil, err
	}
	if protect {
		c.protect(parent, own != "/")
	}
	return c, nil
}

// protect is as much as the guest's controllers allow.
func (c *cgroups) protect(parent string, hasLeaf bool) {
	if hasLeaf {
		_ = writeCgroup(filepath.Join(parent, agentLeaf), "cpu.weight", strconv.Itoa(agentWeight))
	}
	_ = writeCgroup(c.dir, "cpu.weight", strconv.Itoa(sessionsWeight))
	if most := min(readNumber("/proc/sys/kernel/pid_max"), readNumber("/proc/sys/kernel/threads-max")); most > 2*spareTasks {
		_ = writeCgroup(c.dir, "pids.max", strconv.FormatUint(most-spareTasks, 10))
	}
}

// forSession makes a cgroup for a session. Of one without limits it returns nil if it
// cannot.
func (c *cgroups) forSession(id sessionID, l *guestv1.ResourceLimits) (*cgroup, error) {
	limited := l != nil && (l.MemoryBytes != nil || l.Processes != nil || l.CpuMillis != nil)
	switch {
	case c == nil && limited:
		return nil, noCgroup("this agent makes no cgroups for sessions")
	case c == nil:
		return nil, nil
	}
	g, err := c.make(id.String())
	if err != nil && !limited {
		return nil, nil
	}
	if err != nil || !limited {
		return g, err
	}
	g.limited = l.MemoryBytes != nil
	path := g.path
	for _, limit := range []struct {
		controller string
		value      *uint64
		text       func(uint64) string
	}{
		{"memory", l.MemoryBytes, decimal},
		{"pids", l.Processes, decimal},
		{"cpu", l.CpuMillis, cpuMax},
	} {
		if limit.value == nil {
			continue
		}
		file := limit.controller + ".max"
		err := error(noCgroup("the guest has no %s controller", limit.controller))
		if slices.Contains(c.controllers, limit.controller) {
			err = writeCgroup(path, file, limit.text(*limit.value))
		}
		if err != nil {
			c.remove(g)
			if f, ok := err.(*fault); ok {
				return nil, f
			}
			return nil, newFault(codes.InvalidArgument, reasonBadSpec, "%s of %d: %v", file, *limit.value, err).On("write", path, err)
		}
	}
	return g, nil
}

// make makes a cgroup.
func (c *cgroups) make(name string) (*cgroup, error) {
	path := filepath.Join(c.dir, name)
	if err := makeDir(path); err != nil {
		return nil, noCgroup("cannot make a cgroup: %v", err).On("mkdir", path, err)
	}
	dir, err := openDir(path)
	if err != nil {
		_ = os.Remove(path)
		return nil, noCgroup("cannot open a cgroup: %v", err).On("open", path, err)
	}
	return &cgroup{path: path, dir: dir}, nil
}

// name returns the cgroup of all sessions below the root, or "".
func (c *cgroups) name() string {
	if c == nil {
		return ""
	}
	return strings.TrimPrefix(c.dir, c.root)
}

func noCgroup(format string, args ...any) *fault {
	return newFault(codes.FailedPrecondition, reasonNoCgroup, format, args...).
		Hint("limits of memory, processes and CPU need cgroup v2 in the guest, delegated to the agent")
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// cpuMax is cpu.max for so many thousandths of a CPU. The kernel takes no quota
// below a millisecond.
func cpuMax(millis uint64) string {
	period := uint64(100_000) // microseconds
	if millis < 10 {
		period = 1_000_000
	}
	return fmt.Sprintf("%d %d", min(millis, 1<<30)*period/1000, period)
}

// fd returns the directory that a session's process starts in, or -1.
func (c *cgroups) fd(g *cgroup) int {
	switch {
	case g != nil:
		return int(g.dir.Fd())
	case c != nil:
		return int(c.sharedDir().Fd())
	}
	return -1
}

// sharedDir returns the directory of the sessions without one of their own. One that has
// been given controllers for children takes no process: the program of a session
// has done so, an init, a container engine or another agent. It keeps that one,
// and a new one takes its place.
func (c *cgroups) sharedDir() *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	enabled, err := os.ReadFile(filepath.Join(c.shared.Name(), "cgroup.subtree_control"))
	if err != nil || len(bytes.TrimSpace(enabled)) == 0 {
		return c.shared
	}
	path := filepath.Join(c.dir, fmt.Sprintf("%s-%d", sharedGroup, len(c.lost)+2))
	if err := makeDir(path); err != nil {
		return c.shared
	}
	dir, err := openDir(path)
	if err != nil {
		return c.shared
	}
	c.lost = append(c.lost, c.shared)
	c.shared = dir
	return dir
}

// remove removes a session's cgroup, now or once nothing runs there any more: what
// the process has left running may live on.
func (c *cgroups) remove(g *cgroup) {
	if g == nil {
		return
	}
	g.dir.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leftover = append(c.leftover, g.path)
	c.wait = leastSweep
	c.sweep()
}

// sweep removes what is left over and not in use, and comes again, less and less
// often, for the rest. mu is held.
func (c *cgroups) sweep() {
	c.leftover = slices.DeleteFunc(c.leftover, func(path string) bool {
		return !errors.Is(removeGroup(path), syscall.EBUSY)
	})
	if len(c.leftover) == 0 || c.again != nil {
		return
	}
	c.again = time.AfterFunc(c.wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.again = nil
		c.wait = min(2*c.wait, mostSweep)
		c.sweep()
	})
}

// mostGroups bounds how many cgroups a program may have made below its own to have
// them removed with it.
const mostGroups = 10_000

// removeGroup removes a cgroup and those below it.
func removeGroup(path string) error {
	err := os.Remove(path)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	below := groupsBelow(path)
	for _, dir := range slices.Backward(below) {
		_ = os.Remove(dir)
	}
	if len(below) == 0 {
		return err
	}
	return os.Remove(path)
}

// groupsBelow lists the cgroups below one, each before those below it.
func groupsBelow(path string) []string {
	var all []string
	_ = filepath.WalkDir(path, func(dir string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return nil
		case len(all) == mostGroups:
			return fs.SkipAll
		case dir != path:
			all = append(all, dir)
		}
		return nil
	})
	return all
}

// close removes what is left, as far as nothing runs there.
func (c *cgroups) close() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, dir := range append(c.lost, c.shared) {
		dir.Close()
		_ = os.Remove(dir.Name())
	}
	for _, path := range append(c.leftover, c.dir) {
		_ = removeGroup(path)
	}
	c.leftover = nil
	if c.again != nil {
		c.again.Stop()
	}
}

// oomKills returns how many processes of the cgroup were killed for want of
// memory.
func (g *cgroup) oomKills() uint64 {
	if g == nil {
		return 0
	}
	text, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(text) {
		if n, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			kills, _ := strconv.ParseUint(string(bytes.TrimSpace(n)), 10, 64)
			return kills
		}
	}
	return 0
}

// kill kills every process of the cgroup at once, since Linux 5.14.
func (g *cgroup) kill() {
	if g != nil {
		_ = writeCgroup(g.path, "cgroup.kill", "1")
	}
}

// procs lists the processes of the cgroup and of those below it.
func (g *cgroup) procs() []int {
	var list []int
	for _, dir := range append([]string{g.path}, groupsBelow(g.path)...) {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			// 0 is a process that cannot be seen from here.
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				list = append(list, pid)
			}
		}
	}
	return list
}

// watchOOM calls f whenever the counts of the cgroup's memory.events change,
// until the file that it returns is closed; nil if it cannot.
func (g *cgroup) watchOOM(f func()) *os.File {
	if g == nil || !g.limited {
		return nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	events := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(g.path, "memory.events"), unix.IN_MODIFY); err != nil {
		events.Close()
		return nil
	}
	go func() {
		var buf [4096]byte
		for {
			if _, err := events.Read(buf[:]); err != nil {
				return
			}
			f()
		}
	}()
	return events
}

// ownCgroup returns the agent's cgroup below the root of version 2.
func ownCgroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && filepath.IsAbs(path) && !strings.HasPrefix(path, "/..") {
			return path, nil
		}
	}
	return "", errors.New("the agent is in no cgroup that it can see")
}

func makeDir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// writeCgroup writes a file of a cgroup. It never creates one.
func writeCgroup(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// readNumber returns the number in a file, 0 if there is none.
func readNumber(name string) uint64 {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	return n
}
