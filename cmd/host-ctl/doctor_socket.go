package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vsockrpc/vsockrpc/transport"
)

// server checks that somebody serves the socket of a VMM, and says who.
func (d *doctor) server(ctx context.Context, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, d.cli.connectTimeout)
	defer cancel()
	c, err := transport.Dial(ctx, transport.UnixAddr(path), nil)
	if err != nil {
		d.report(check{Step: "device", Result: "failed", Detail: err.Error(), Remedy: "start the VM, or host-ctl vsock-device, which serves the socket"})
		return false
	}
	p := c.Peer()
	c.Close()
	if !p.HasCreds || p.PID == 0 {
		return true
	}
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	words := strings.Split(string(cmdline), "\x00")
	switch {
	case slices.Contains(words, "vsock-device"):
		as := "not root: the guest sees a port from 2^30 on, and its agent needs --peer=host"
		if os.Geteuid() == 0 {
			as = "root: the guest sees a port below 1024"
		}
		d.ok("device", "host-ctl vsock-device, pid %d, uid %d; this caller is %s", p.PID, p.UID, as)
	case words[0] != "":
		d.ok("device", "%s, pid %d, uid %d", filepath.Base(words[0]), p.PID, p.UID)
	default:
		d.ok("device", "pid %d, uid %d", p.PID, p.UID)
	}
	return true
}
