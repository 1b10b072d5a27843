//go:build linux

package process

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/launch"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// defaultUmask is every session's, whatever the agent's own.
const defaultUmask = 0o022

var rlimitNumbers = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU,
	"data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS,
	"memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE,
	"nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC,
	"rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
	"sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// capabilityNames are those of capabilities(7), each at its number.
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
	"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
	"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// processLimits are the limits that a process sets on itself before it becomes
// the program.
type processLimits struct {
	Rlimits      []launch.Rlimit
	Nice         *int
	Umask        int
	NoNewPrivs   bool
	Capabilities []int // to drop
}

// any reports whether one of them has to be set, given the umask that a child
// inherits; -1 if that is not known.
func (p processLimits) any(inheritedUmask int) bool {
	return len(p.Rlimits) > 0 || p.Nice != nil || p.NoNewPrivs || len(p.Capabilities) > 0 || p.Umask != inheritedUmask
}

// newProcessLimits checks what a spec asks for.
func newProcessLimits(l *guestv1.ResourceLimits) (processLimits, error) {
	p := processLimits{Umask: defaultUmask, NoNewPrivs: l.GetNoNewPrivileges()}
	for _, r := range l.GetRlimits() {
		number, ok := rlimitNumbers[strings.ToLower(r.Name)]
		if !ok {
			return p, newFault(codes.InvalidArgument, reasonBadSpec, "no such resource limit: %q", r.Name).
				Hint("names are those of getrlimit(2) without RLIMIT_, such as nofile")
		}
		if r.Soft > r.Hard {
			return p, newFault(codes.InvalidArgument, reasonBadSpec, "limit %s: soft %d is above hard %d", r.Name, r.Soft, r.Hard)
		}
		p.Rlimits = append(p.Rlimits, launch.Rlimit{Name: r.Name, Number: number, Soft: r.Soft, Hard: r.Hard})
	}
	if l != nil && l.Nice != nil {
		if *l.Nice < -20 || *l.Nice > 19 {
			return p, newFault(codes.InvalidArgument, reasonBadSpec, "nice %d is not within -20 and 19", *l.Nice)
		}
		p.Nice = new(int(*l.Nice))
	}
	if l != nil && l.Umask != nil {
		if *l.Umask > 0o777 {
			return p, newFault(codes.InvalidArgument, reasonBadSpec, "umask %#o is above 0777", *l.Umask)
		}
		p.Umask = int(*l.Umask)
	}
	for _, name := range l.GetDropCapabilities() {
		number := slices.Index(capabilityNames, strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
		if number < 0 {
			return p, newFault(codes.InvalidArgument, reasonBadSpec, "no such capability: %q", name).
				Hint("names are those of capabilities(7), such as CAP_NET_RAW")
		}
		p.Capabilities = append(p.Capabilities, number)
	}
	return p, nil
}

// ownUmask returns this process's umask, or -1. umask(2) could only tell by
// changing it under everybody else's feet.
func ownUmask() int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1
	}
	_, rest, ok := bytes.Cut(text, []byte("\nUmask:\t"))
	if !ok {
		return -1
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	mask, err := strconv.ParseUint(string(line), 8, 16)
	if err != nil {
		return -1
	}
	return int(mask)
}
