//go:build linux

package process

import (
	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// cgroups makes the cgroups of sessions; nil: there are none.
type cgroups struct{}

// cgroup is one session's own; nil: none.
type cgroup struct{}

func (c *cgroups) forSession(_ sessionID, l *guestv1.ResourceLimits) (*cgroup, error) {
	if l == nil || l.MemoryBytes == nil && l.Processes == nil && l.CpuMillis == nil {
		return nil, nil
	}
	return nil, newFault(codes.FailedPrecondition, reasonNoCgroup, "this agent has no cgroups for sessions")
}

func (c *cgroups) fd(*cgroup) int  { return -1 }
func (c *cgroups) remove(*cgroup)  {}
func (g *cgroup) oomKills() uint64 { return 0 }
func (g *cgroup) kill()            {}
