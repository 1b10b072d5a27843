package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

func (c *cli) infoCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "info [flags] GUEST",
		Short:             "Describe a guest and its agent",
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, _, err := guestArg(args, 0, 0)
			if err != nil {
				return err
			}
			if err := checkFormat(format); err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				resp, err := g.Info(ctx)
				if err != nil {
					return err
				}
				i := infoJSON(resp)
				if format == "json" {
					return writeJSON(c.stdout, i)
				}
				i.Access.Remedy = c.remedyFor(target, i.Access.Remedy)
				return i.print(c.stdout)
			})
		},
	}
	outputFlag(cmd, &format)
	return cmd
}

// info is a guest as -o json has it. Fields are only ever added.
type info struct {
	Agent struct {
		Version      string       `json:"version"`
		Protocol     uint32       `json:"protocol"`
		ID           string       `json:"id,omitempty"`
		Capabilities []capability `json:"capabilities"`
	} `json:"agent"`
	Access struct {
		Trusted bool   `json:"trusted"`
		Rule    string `json:"rule,omitempty"`
		Remedy  string `json:"remedy,omitempty"`
		Level   string `json:"level,omitempty"`
		Key     string `json:"key,omitempty"`

		Roles  []string `json:"roles,omitempty"`
		Policy string   `json:"policy,omitempty"`
		// AuditOnly: the policy refuses nothing.
		AuditOnly bool `json:"audit_only,omitempty"`

		Error    string `json:"error,omitempty"`
		AgentKey string `json:"agent_key,omitempty"`
	} `json:"access"`
	Hostname  string     `json:"hostname,omitempty"`
	BootID    string     `json:"boot_id,omitempty"`
	MachineID string     `json:"machine_id,omitempty"`
	CID       uint32     `json:"cid,omitempty"`
	Uptime    float64    `json:"uptime_seconds,omitempty"`
	Time      *time.Time `json:"time,omitempty"`
	OS        struct {
		ID           string `json:"id,omitempty"`
		VersionID    string `json:"version_id,omitempty"`
		Name         string `json:"name,omitempty"`
		Kernel       string `json:"kernel,omitempty"`
		Release      string `json:"kernel_release,omitempty"`
		Version      string `json:"kernel_version,omitempty"`
		Architecture string `json:"architecture,omitempty"`
	} `json:"os"`
}

type capability struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
	Reason  string `json:"reason,omitempty"`
}

func infoJSON(r *guestv1.InfoResponse) *info {
	i := &info{Hostname: string(r.GetHostname()), BootID: r.GetBootId(), MachineID: r.GetMachineId(), CID: r.GetCid(),
		Uptime: float64(r.GetUptimeMillis()) / 1000}
	i.Agent.Version, i.Agent.Protocol, i.Agent.ID = r.GetVersion(), r.GetProtocolVersion(), r.GetAgentId()
	i.Agent.Capabilities = []capability{}
	for _, c := range r.GetCapabilities() {
		i.Agent.Capabilities = append(i.Agent.Capabilities, capability{c.GetName(), c.GetEnabled(), c.GetReason()})
	}
	a, o := r.GetAccess(), r.GetOs()
	i.Access.Trusted, i.Access.Rule, i.Access.Remedy = a.GetTrusted(), a.GetRule(), a.GetRemedy()
	i.Access.Level, i.Access.Key, i.Access.Roles = a.GetLevel(), a.GetKey(), a.GetRoles()
	i.Access.AuditOnly = a.GetAuditOnly()
	i.Access.Policy, i.Access.Error, i.Access.AgentKey = a.GetPolicy(), a.GetError(), a.GetAgentKey()
	i.OS.ID, i.OS.VersionID, i.OS.Name = o.GetId(), o.GetVersionId(), o.GetPrettyName()
	i.OS.Kernel, i.OS.Release, i.OS.Version, i.OS.Architecture = o.GetKernelName(), o.GetKernelRelease(), o.GetKernelVersion(), o.GetArchitecture()
	if t := r.GetWallTimeUnixNanos(); t != 0 {
		wall := unixTime(t)
		i.Time = &wall
	}
	return i
}

// print prints the guest for people.
func (i *info) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s:\t%s\n", name, visibleLine(value))
		}
	}
	line("hostname", i.Hostname)
	line("os", i.OS.Name)
	line("kernel", strings.TrimSpace(i.OS.Kernel+" "+i.OS.Release))
	line("architecture", i.OS.Architecture)
	if i.Uptime > 0 {
		line("uptime", (time.Duration(i.Uptime) * time.Second).String())
	}
	if i.Time != nil {
		line("time", i.Time.Format(time.RFC3339))
	}
	if i.CID != 0 {
		line("cid", fmt.Sprint(i.CID))
	}
	line("machine id", i.MachineID)
	line("boot id", i.BootID)
	line("agent", fmt.Sprintf("%s, protocol %d", i.Agent.Version, i.Agent.Protocol))
	var on, off []string
	for _, c := range i.Agent.Capabilities {
		if c.Enabled {
			on = append(on, c.Name)
		} else {
			off = append(off, c.Name+" ("+c.Reason+")")
		}
	}
	line("can", strings.Join(on, ", "))
	line("cannot", strings.Join(off, ", "))
	if i.Access.Trusted {
		line("access", "trusted by rule "+i.Access.Rule)
	} else {
		line("access", "not trusted, by rule "+i.Access.Rule)
		line("remedy", i.Access.Remedy)
	}
	line("trust", accessLine(i.Access.Level, i.Access.Key, i.Access.Roles, i.Access.Policy, i.Access.AuditOnly))
	line("agent key", i.Access.AgentKey)
	line("warning", i.Access.Error)
	return quietPipe(t.Flush())
}
