package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
)

// deviceOptions are the flags of vsock-device.
type deviceOptions struct {
	cid         uint32
	socket, uds string
	mode        string
	group       string
	verbose     bool
}

func (c *cli) vsockDeviceCommand() *cobra.Command {
	var o deviceOptions
	cmd := &cobra.Command{
		Use:   "vsock-device --cid N --socket VHOST --uds PATH [flags]",
		Short: "Give a VM a virtio-vsock device",
		Long: `Give a VM of QEMU, User-mode Linux or another VMM that speaks vhost-user a
virtio-vsock device, with no kernel module and as any user. Start the VM afterwards, with VHOST as its vhost-user
socket:

  qemu-system-x86_64 -object memory-backend-memfd,id=m,size=1G,share=on -numa node,memdev=m \
    -chardev socket,id=v,path=VHOST -device vhost-user-vsock-pci,chardev=v ...

and reach its guest at vsock-mux:PATH:PORT. Connections of the guest to port P
of the host (CID 2) arrive at the Unix socket PATH_P.

It serves one VM after the other until it gets SIGTERM or SIGINT. The device
itself is a child process. If that crashes, or at SIGHUP, which starts the program
as it is now, the next goes on with the VM, whose connections are reset. Who may reach
the guest is who may write to the sockets: the calling user, unless --mode and
--group say otherwise. A caller who is root comes from a port below 1024.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			unlimitMemory() // package vsockdev has its own bounds
			mode, gid, err := o.check()
			if err != nil {
				return usageError{err}
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			o.verbose = c.verbose
			return serveDevice(ctx, &o, mode, gid, c.deviceLogger())
		},
	}
	flags := cmd.Flags()
	flags.Uint32Var(&o.cid, "cid", 0, "the guest's CID, 3 or more; guests of other devices may have the same")
	flags.StringVar(&o.socket, "socket", "", "vhost-user socket for the VM")
	flags.StringVar(&o.uds, "uds", "", "socket for callers of the guest; PATH_P is where the guest's connections to port P go")
	flags.StringVar(&o.mode, "mode", "0600", "permissions of both sockets")
	flags.StringVar(&o.group, "group", "", "group of both sockets, a name or number")
	return cmd
}

// deviceLogger returns a logger to stderr: of warnings, or with -v of everything.
func (c *cli) deviceLogger() *slog.Logger {
	if log := c.logger(); log != nil {
		return log
	}
	return slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// check returns the mode and the group, -1 if there is none.
func (o *deviceOptions) check() (fs.FileMode, int, error) {
	if o.cid == 0 || o.socket == "" || o.uds == "" {
		return 0, 0, errors.New("--cid, --socket and --uds are needed")
	}
	if filepath.Clean(o.socket) == filepath.Clean(o.uds) {
		return 0, 0, errors.New("--socket and --uds are the same")
	}
	mode, err := strconv.ParseUint(o.mode, 8, 32)
	if err != nil || mode > 0o777 || mode&0o200 == 0 {
		return 0, 0, fmt.Errorf("--mode %q is not one for a socket, such as 0660", o.mode)
	}
	gid, err := groupID(o.group)
	return fs.FileMode(mode), gid, err
}

// groupID returns the number of a group, or -1 for "".
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("--group: %w", err)
	}
	return strconv.Atoi(g.Gid)
}
