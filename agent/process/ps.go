//go:build linux

package process

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/charge"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

const (
	// ticksPerSecond is USER_HZ, in which /proc counts on every architecture
	// that this agent is built for.
	ticksPerSecond = 100
	// psBatch is how many processes one response carries.
	psBatch = 128
	// maxCmdline bounds the command line that is shown of one process.
	maxCmdline = 16 << 10
)

// procStat is what this package needs of /proc/PID/stat, proc_pid_stat(5).
type procStat struct {
	pid, parent, group, session int
	name                        string
	state                       string
	ticks                       uint64 // used, user and system
	threads                     uint64
	startTicks                  uint64
	virtual                     uint64 // bytes
	resident                    uint64 // pages
}

// readStat reads /proc/PID/stat; false if the process is gone.
func readStat(pid int) (procStat, bool) {
	text, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return procStat{}, false
	}
	return parseStat(pid, string(text))
}

// parseStat parses PID (NAME) STATE PPID ..., where NAME may hold anything.
func parseStat(pid int, text string) (procStat, bool) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return procStat{}, false
	}
	f := strings.Fields(text[end+1:])
	const first, last = 3, 24 // the numbers of the fields in proc_pid_stat(5)
	if len(f) <= last-first {
		return procStat{}, false
	}
	ok := true
	number := func(field int) uint64 {
		n, err := strconv.ParseInt(f[field-first], 10, 64)
		if err != nil {
			u, uerr := strconv.ParseUint(f[field-first], 10, 64)
			ok = ok && uerr == nil
			return u
		}
		return uint64(max(n, 0))
	}
	p := procStat{
		pid:        pid,
		name:       text[open+1 : end],
		state:      f[0],
		parent:     int(number(4)),
		group:      int(number(5)),
		session:    int(number(6)),
		ticks:      number(14) + number(15),
		threads:    number(20),
		startTicks: number(22),
		virtual:    number(23),
		resident:   number(24),
	}
	return p, ok
}

func procFile(pid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + name
}

// pids lists the processes of the guest, by number.
func pids() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	var list []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			list = append(list, pid)
		}
	}
	slices.Sort(list)
	return list, err
}

// ListProcesses implements guest.v1.ProcessService.
func (s *Server) ListProcesses(_ *guestv1.ListProcessesRequest, stream grpc.ServerStreamingServer[guestv1.ListProcessesResponse]) error {
	list, err := pids()
	if err != nil {
		return newFault(codes.FailedPrecondition, reasonFailed, "list the processes: %v", err).On("open", "/proc", err)
	}
	stats := make(map[int]procStat, len(list))
	for _, pid := range list {
		if p, ok := readStat(pid); ok {
			stats[pid] = p
		}
	}
	kin, to := s.kin(stats), charge.From(stream.Context())
	names := s.accounts.UserNames()
	boot := bootTime()
	resp := &guestv1.ListProcessesResponse{}
	for _, pid := range list {
		p, ok := stats[pid]
		if !ok {
			continue
		}
		uid := uidOf(pid)
		info := &guestv1.ProcessInfo{
			Pid:            uint32(pid),
			ParentPid:      uint32(p.parent),
			ProcessGroup:   uint32(p.group),
			Uid:            uid,
			User:           []byte(names[uid]),
			State:          p.state,
			CpuMillis:      p.ticks * 1000 / ticksPerSecond,
			ResidentBytes:  p.resident * uint64(os.Getpagesize()),
			VirtualBytes:   p.virtual,
			StartTicks:     p.startTicks,
			StartUnixNanos: boot.Add(time.Duration(p.startTicks) * time.Second / ticksPerSecond).UnixNano(),
			Threads:        uint32(p.threads),
			Name:           []byte(p.name),
			Args:           cmdline(pid),
		}
		if id, ses, ok := kin.of(p); ok {
			info.SessionId = id[:]
			if !to.Full && (ses == nil || ses.account.ID != to.ID) {
				info.Args = nil
			}
		}
		if resp.Processes = append(resp.Processes, info); len(resp.Processes) == psBatch {
			if err := stream.Send(resp); err != nil {
				return err
			}
			resp = &guestv1.ListProcessesResponse{}
		}
	}
	if len(resp.Processes) == 0 {
		return nil
	}
	return stream.Send(resp)
}

// uidOf returns the effective uid of a process; root if it is gone.
func uidOf(pid int) uint32 {
	text, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(text, []byte("\nUid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	if ids := bytes.Fields(line); len(ids) > 1 {
		if uid, err := strconv.ParseUint(string(ids[1]), 10, 32); err == nil {
			return uint32(uid)
		}
	}
	return 0
}

// cmdline returns the arguments of a process, none of a kernel thread.
func cmdline(pid int) [][]byte {
	text, err := os.ReadFile(procFile(pid, "cmdline"))
	if err != nil || len(text) == 0 {
		return nil
	}
	text = text[:min(len(text), maxCmdline)]
	return bytes.Split(bytes.TrimSuffix(text, []byte{0}), []byte{0})
}

// bootTime returns the wall clock's time of the boot, from which the ticks of
// /proc/PID/stat count.
func bootTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Unix(0, 0)
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}
