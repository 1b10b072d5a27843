//go:build linux

package process

import (
	"bytes"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// markName is a variable of the base environment, with the session's id, by which
// a daemon is known whose parents have all ended.
const markName = "VSOCKRPC_SESSION"

// maxMark bounds how much of an environment is searched for it.
const maxMark = 128 << 10

// family finds everything that a session has started, wherever that has gone: by
// the session's cgroup or, without one, by its POSIX session, the parents and the
// environment. It is used under the session's lock.
type family struct {
	pid   int    // of the session's process
	mark  string // the value of markName
	group *cgroup
	// known has the start of each process that was found once without a cgroup:
	// its parent may have ended since.
	known map[int]uint64
}

// members lists the processes of the session that live.
func (f *family) members() []procStat {
	if f.group == nil {
		return f.search()
	}
	var members []procStat
	for _, pid := range f.group.procs() {
		if p, ok := readStat(pid); ok && p.alive() {
			members = append(members, p)
		}
	}
	return members
}

// search is members without a cgroup.
func (f *family) search() []procStat {
	list, err := pids()
	if err != nil {
		return nil // no /proc
	}
	stats := make(map[int]procStat, len(list))
	children := make(map[int][]int)
	for _, pid := range list {
		if p, ok := readStat(pid); ok {
			stats[pid] = p
			children[p.parent] = append(children[p.parent], pid)
		}
	}
	found := make(map[int]bool)
	var add func(pid int)
	add = func(pid int) {
		if found[pid] || pid == os.Getpid() || pid == 1 {
			return
		}
		found[pid] = true
		for _, child := range children[pid] {
			add(child)
		}
	}
	if f.known == nil { // the process is not reaped
		f.known = map[int]uint64{f.pid: stats[f.pid].startTicks}
	}
	// The kernel gives the number to another only once the POSIX session is empty.
	leader, lives := stats[f.pid]
	foreign := lives && leader.startTicks != f.known[f.pid]
	for pid, p := range stats {
		if start, ok := f.known[pid]; p.session == f.pid && !foreign || ok && start == p.startTicks {
			add(pid)
		}
	}
	for pid := range stats {
		if !found[pid] && hasMark(pid, f.mark) {
			add(pid)
		}
	}
	var members []procStat
	for _, pid := range list {
		if p := stats[pid]; found[pid] && p.alive() {
			f.known[pid] = p.startTicks
			members = append(members, p)
		}
	}
	return members
}

// signal sends signals to all members.
func (f *family) signal(signals ...syscall.Signal) {
	for _, m := range f.members() {
		for _, sig := range signals {
			m.signal(sig)
		}
	}
}

const (
	// stopFor bounds how long kill waits until all are stopped: what waits for a
	// device does not stop before that answers.
	stopFor = time.Second
	// killRounds bounds how often it looks for what is left.
	killRounds = 10
	roundPause = time.Millisecond
)

// kill kills all members, and what they fork meanwhile. They are stopped first,
// until nothing is found that is not, so that neither a fork nor the end of a parent
// hides one.
func (f *family) kill() {
	f.group.kill()
	for start := time.Now(); time.Since(start) < stopFor; time.Sleep(roundPause) {
		running := false
		for _, m := range f.members() {
			if m.state != "T" && m.state != "t" {
				running = true
				m.signal(unix.SIGSTOP)
			}
		}
		if !running {
			break
		}
	}
	for range killRounds {
		members := f.members()
		for _, m := range members {
			m.signal(unix.SIGKILL)
		}
		if len(members) == 0 {
			return
		}
		time.Sleep(roundPause)
	}
}

// alive reports whether the process still runs: one whose first thread alone has
// ended does.
func (p procStat) alive() bool { return p.state != "X" && (p.state != "Z" || p.threads > 1) }

// signal signals the process if it is still the one that was listed.
func (p procStat) signal(sig syscall.Signal) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err == nil {
		defer unix.Close(fd)
	} else if err != unix.ENOSYS {
		return
	}
	if now, ok := readStat(p.pid); !ok || now.startTicks != p.startTicks {
		return
	}
	if err == nil {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	} else {
		_ = unix.Kill(p.pid, sig)
	}
}

// environMark returns the value of markName in the environment that a process
// was executed with, and whether there is one.
func environMark(pid int) (string, bool) {
	f, err := os.Open(procFile(pid, "environ"))
	if err != nil {
		return "", false
	}
	defer f.Close()
	env, _ := io.ReadAll(io.LimitReader(f, maxMark))
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte(markName+"=")); ok {
			return string(value), true
		}
	}
	return "", false
}

func hasMark(pid int, mark string) bool {
	value, ok := environMark(pid)
	return ok && value == mark
}

// kin says which sessions the processes of a list belong to.
type kin struct {
	stats    map[int]procStat
	sessions map[sessionID]*session
	leaders  map[int]*session // whose process is not reaped, by its pid
	groups   string           // the cgroup of all sessions; empty: none
}

// kin returns who is whose among some processes.
func (s *Server) kin(stats map[int]procStat) *kin {
	k := &kin{stats: stats, sessions: make(map[sessionID]*session), leaders: make(map[int]*session), groups: s.cgroups.name()}
	for _, ses := range s.list() {
		k.sessions[ses.id] = ses
		ses.mu.Lock()
		if !ses.reaped {
			k.leaders[ses.child.pid] = ses
		}
		ses.mu.Unlock()
	}
	return k
}

// of returns the session that has started a process, by its id: the session itself
// is nil if it is forgotten.
func (k *kin) of(p procStat) (id sessionID, ses *session, ok bool) {
	if id, ok := k.grouped(p.pid); ok {
		return id, k.sessions[id], true
	}
	if ses := k.leaders[p.session]; ses != nil {
		return ses.id, ses, true
	}
	// As many steps as there are processes at most: a snapshot that was not
	// taken at one instant may have a loop.
	for q, n := p, 0; n <= len(k.stats); n++ {
		if ses := k.leaders[q.pid]; ses != nil {
			return ses.id, ses, true
		}
		parent, ok := k.stats[q.parent]
		if !ok {
			break
		}
		q = parent
	}
	if mark, ok := environMark(p.pid); ok {
		if id, ok := parseSessionID(mark); ok && k.sessions[id] != nil {
			return id, k.sessions[id], true
		}
	}
	return sessionID{}, nil, false
}

// grouped returns the session in whose cgroup a process is.
func (k *kin) grouped(pid int) (sessionID, bool) {
	if k.groups == "" {
		return sessionID{}, false
	}
	text, err := os.ReadFile(procFile(pid, "cgroup"))
	if err != nil {
		return sessionID{}, false
	}
	lines := strings.Split(string(text), "\n")
	i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "0::") })
	if i < 0 {
		return sessionID{}, false
	}
	rest, ok := strings.CutPrefix(lines[i], "0::"+k.groups+"/")
	if !ok {
		return sessionID{}, false
	}
	name, _, _ := strings.Cut(rest, "/")
	return parseSessionID(name)
}
