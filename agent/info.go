//go:build linux

package agent

import (
	"context"
	"slices"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/system"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// infoService is guest.v1.AgentService.
type infoService struct {
	guestv1.UnimplementedAgentServiceServer
	agent *Agent
}

// Info tells a trusted caller all about the agent and its guest, and others
// the versions and what would let them in.
func (s *infoService) Info(ctx context.Context, _ *guestv1.InfoRequest) (*guestv1.InfoResponse, error) {
	a := s.agent
	who := callerIn(ctx)
	d := who.decision
	resp := &guestv1.InfoResponse{
		Version:         a.version,
		ProtocolVersion: ProtocolVersion,
		Access:          &guestv1.Access{Trusted: d.Trusted, Rule: d.Rule, Remedy: d.Remedy, Level: a.Level(), Key: who.key},
	}
	if !d.Trusted {
		return resp, nil
	}
	a.mu.Lock()
	resp.Capabilities = slices.Clone(a.capabilities)
	a.mu.Unlock()

	a.guard.describe(who, resp.Access)
	resp.Access.AgentKey = a.Fingerprint()

	facts := a.facts.Read("/")
	resp.BootId = facts.BootID
	resp.AgentId = a.id
	resp.Hostname = facts.Hostname
	resp.MachineId = facts.MachineID
	resp.Os = &guestv1.Os{
		KernelName:    facts.KernelName,
		KernelRelease: facts.KernelRelease,
		KernelVersion: facts.KernelVersion,
		Architecture:  facts.Architecture,
		Id:            facts.OS.ID,
		VersionId:     facts.OS.VersionID,
		PrettyName:    facts.OS.PrettyName,
	}
	resp.UptimeMillis = uint64(system.Uptime().Milliseconds())
	if cid, err := transport.LocalCID(); err == nil {
		resp.Cid = cid
	}
	resp.WallTimeUnixNanos = time.Now().UnixNano()
	resp.Limits = a.process.Limits()
	return resp, nil
}
