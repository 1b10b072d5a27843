package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// maxSkew is the difference between clocks from which on doctor says so.
const maxSkew = 5 * time.Second

func (c *cli) doctorCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor [flags] [GUEST]",
		Short: "Find out what is wrong, and the remedy",
		Long: `Check what this machine needs to reach guests, and with GUEST each step on the way
to its agent. The exit code is 125 if a step fails.`,
		ValidArgsFunction: c.completeGuest,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("unexpected argument %q", args[1])}
			}
			if err := checkFormat(format); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			d := &doctor{cli: c, w: c.stdout, json: format == "json"}
			if len(args) == 0 {
				d.machine()
			} else {
				d.guest(ctx, args[0])
			}
			switch {
			case d.err != nil:
				return quietPipe(d.err)
			case d.failed:
				return exitCode(exitFailure)
			}
			return nil
		},
	}
	outputFlag(cmd, &format)
	return cmd
}

// doctor prints checks as it makes them.
type doctor struct {
	cli    *cli
	w      io.Writer
	json   bool
	failed bool
	err    error // of printing
}

// check is one check as -o json has it.
type check struct {
	Step   string `json:"step"`
	Result string `json:"result"` // "ok", "warning", "failed"
	Detail string `json:"detail,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

func (d *doctor) report(ch check) {
	d.failed = d.failed || ch.Result == "failed"
	if d.err != nil {
		return
	}
	if d.json {
		d.err = writeJSON(d.w, ch)
		return
	}
	line := fmt.Sprintf("%-7s  %s", ch.Result, ch.Step)
	if ch.Detail != "" {
		line += ": " + ch.Detail
	}
	if ch.Remedy != "" {
		line += "\n         -> " + ch.Remedy
	}
	d.err = printVisible(d.w, "%s\n", line)
}

func (d *doctor) ok(step, format string, args ...any) {
	d.report(check{Step: step, Result: "ok", Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) warn(step, detail, remedy string) {
	d.report(check{Step: step, Result: "warning", Detail: detail, Remedy: remedy})
}

func (d *doctor) fail(step string, err error) {
	ch := check{Step: step, Result: "failed", Detail: err.Error()}
	if e, ok := errors.AsType[*guest.Error](err); ok {
		ch.Detail, ch.Remedy = e.Message(), d.cli.remedyFor(e.Guest, e.Remedy)
	}
	d.report(ch)
}

// machine checks this machine alone.
func (d *doctor) machine() {
	d.configFile()
	d.vsock()
}

func (d *doctor) configFile() bool {
	if err := d.cli.readFile(); err != nil {
		d.fail("configuration file", err)
		return false
	}
	d.ok("configuration file", "%d guests", len(d.cli.file.Guests))
	return true
}

// vsock checks what native vsock needs.
func (d *doctor) vsock() bool {
	if err := transport.Available(); err != nil {
		d.fail("vsock", err)
		return false
	}
	d.ok("vsock", "the kernel has it")
	d.kernel()
	switch cid, err := transport.LocalCID(); {
	case err != nil:
		d.warn("local CID", err.Error(), "a host needs the module vhost_vsock: modprobe vhost_vsock")
	case cid == transport.CIDHost:
		d.ok("local CID", "2: this is a host")
	default:
		d.ok("local CID", "%d: this machine is a guest itself", cid)
	}
	switch _, err := os.Stat("/dev/vhost-vsock"); {
	case err == nil:
		d.ok("/dev/vhost-vsock", "VMs can be given a CID")
	case errors.Is(err, fs.ErrNotExist):
		d.warn("/dev/vhost-vsock", "missing: no VM here can have native vsock", "modprobe vhost_vsock; host-ctl vsock-device, Firecracker and Cloud Hypervisor do without")
	default:
		d.warn("/dev/vhost-vsock", err.Error(), "")
	}
	if !mayBindPrivileged() {
		d.warn("privilege", "this process cannot dial from a port below 1024, which agents ask for by default",
			"run host-ctl as root, or start the agent with --peer host")
	} else {
		d.ok("privilege", "this process may dial from ports below 1024")
	}
	return true
}

// guest checks each step to a guest's agent.
func (d *doctor) guest(ctx context.Context, target string) {
	if target != "local" && !d.reachable(ctx, target) {
		return
	}
	g, err := d.cli.dial(ctx, target)
	if err != nil {
		d.fail("agent", err)
		return
	}
	defer d.cli.close(g)
	before := time.Now()
	info, err := g.Info(ctx)
	if err != nil {
		d.fail("agent", err)
		return
	}
	trip := time.Since(before)
	d.ok("agent", "version %s, protocol %d, answers in %v", info.GetVersion(), info.GetProtocolVersion(), trip.Round(time.Microsecond))
	if a := info.GetAccess(); !a.GetTrusted() {
		d.report(check{Step: "access", Result: "failed", Detail: "the agent does not trust this caller, by rule " + a.GetRule(), Remedy: d.cli.remedyFor(target, a.GetRemedy())})
		return
	} else {
		d.ok("access", "trusted by rule %s; %s", a.GetRule(), accessLine(a.GetLevel(), a.GetKey(), a.GetRoles(), a.GetPolicy(), a.GetAuditOnly()))
		if a.GetAuditOnly() {
			d.warn("policy", "it refuses nothing, and logs what it would", "take audit_only out of "+a.GetPolicy()+" when it is as it should be")
		}
		if a.GetError() != "" {
			d.warn("policy and keys", a.GetError(), "mend the file in the guest: what it said before is in force")
		}
	}
	d.clock(info, before.Add(trip/2))
	for _, c := range info.GetCapabilities() {
		if !c.GetEnabled() {
			d.warn("capability "+c.GetName(), "off", c.GetReason())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, d.cli.connectTimeout)
	defer cancel()
	err = g.Command(ctx, "true").Run()
	if e, ok := errors.AsType[*guest.Error](err); ok && e.Reason == "other-face" {
		d.ok("exec", "not here: this is the address of the control face")
		return
	}
	if err != nil {
		d.fail("exec", err)
		return
	}
	d.ok("exec", "a command runs")
}

// reachable checks what can be checked of a target without calling its agent.
func (d *doctor) reachable(ctx context.Context, target string) bool {
	if d.cli.configPath != "" && !d.configFile() {
		return false
	}
	addr, _, err := guest.Resolve(target, d.cli.file)
	if err != nil {
		d.fail("target", err)
		return false
	}
	d.ok("target", "%s", addr)
	if addr.Net == transport.NetworkVsock {
		return d.vsock()
	}
	if strings.HasPrefix(addr.Path, "@") {
		return true
	}
	fi, err := os.Stat(addr.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.report(check{Step: "socket", Result: "failed", Detail: addr.Path + " does not exist", Remedy: "start the VM, or mend the path"})
		return false
	case err != nil:
		d.fail("socket", err)
		return false
	case fi.Mode().Type() != fs.ModeSocket:
		d.report(check{Step: "socket", Result: "failed", Detail: addr.Path + " is no socket", Remedy: "give the path of the VMM's vsock socket"})
		return false
	}
	d.ok("socket", "%s, %s", addr.Path, fi.Mode())
	if addr.Net == transport.NetworkMux {
		return d.server(ctx, addr.Path)
	}
	return true
}

// clock compares the guest's clock with this machine's.
func (d *doctor) clock(info *guestv1.InfoResponse, now time.Time) {
	if info.GetWallTimeUnixNanos() == 0 {
		return
	}
	skew := unixTime(info.GetWallTimeUnixNanos()).Sub(now)
	if skew.Abs() > maxSkew {
		d.warn("clock", fmt.Sprintf("the guest's differs by %v", skew.Round(time.Millisecond)), "set the guest's clock, as after a restore")
		return
	}
	d.ok("clock", "the guest's differs by %v", skew.Round(time.Millisecond))
}
