package guest

import (
	"io/fs"
	"math"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// Unlimited is the value of a Rlimit that does not limit.
const Unlimited = math.MaxUint64

// Limits bound what a command may use. Fields that are zero do not limit. The command
// does not start where the guest cannot keep them: Memory, Processes and CPUs need
// cgroup v2 there, and all need an agent that may start programs of other users.
type Limits struct {
	Memory    uint64  // bytes of all processes of the session together
	Processes uint64  // and threads, of the session
	CPUs      float64 // CPU time in CPUs, such as 1.5; rounded up to thousandths

	Rlimits []Rlimit     // of each process
	Nice    *int         // -20 to 19
	Umask   *fs.FileMode // nil means 022

	NoNewPrivileges  bool     // programs gain no privileges by being executed
	DropCapabilities []string // such as "CAP_NET_RAW"
}

// Rlimit is a resource limit of setrlimit(2), such as {"nofile", 1024, 4096}.
type Rlimit struct {
	Name       string
	Soft, Hard uint64 // Unlimited for none
}

// message returns l as it is sent; nil for no limits.
func (l *Limits) message() *guestv1.ResourceLimits {
	if l == nil {
		return nil
	}
	m := &guestv1.ResourceLimits{NoNewPrivileges: l.NoNewPrivileges, DropCapabilities: l.DropCapabilities}
	if l.Memory > 0 {
		m.MemoryBytes = &l.Memory
	}
	if l.Processes > 0 {
		m.Processes = &l.Processes
	}
	if l.CPUs > 0 {
		m.CpuMillis = new(uint64(math.Ceil(min(l.CPUs, 1e12) * 1000)))
	}
	for _, r := range l.Rlimits {
		m.Rlimits = append(m.Rlimits, &guestv1.Rlimit{Name: r.Name, Soft: r.Soft, Hard: r.Hard})
	}
	if l.Nice != nil {
		m.Nice = new(int32(*l.Nice))
	}
	if l.Umask != nil {
		m.Umask = new(uint32(*l.Umask))
	}
	if proto.Equal(m, &guestv1.ResourceLimits{}) {
		return nil
	}
	return m
}
