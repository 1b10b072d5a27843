package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) writeCommand() *cobra.Command {
	var user, mode string
	cmd := &cobra.Command{
		Use:   "write [flags] GUEST PATH < FILE",
		Short: "Write stdin to a file of a guest",
		Long: `Write stdin to a file of a guest. The file has its old contents or all of the new
ones, whatever happens, and keeps its owner, permissions and attributes.`,
		Example: `  host-ctl write web /etc/app.conf < app.conf
  generate | host-ctl write web:/srv/data.json`,
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 1, 1)
			if err != nil {
				return err
			}
			bits, err := strconv.ParseUint(mode, 8, 9)
			if err != nil {
				return usageError{fmt.Errorf("mode %q: want up to three octal digits", mode)}
			}
			if isTerminal(c.stdin) {
				return usageError{errors.New("stdin is a terminal: want the contents there")}
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				_, err := filesAs(g, user).CopyReader(ctx, c.stdin, guestPath(paths[0]), fs.FileMode(bits), nil)
				if ce, ok := errors.AsType[*guest.CopyError](err); ok && len(ce.Failures) == 1 {
					err = ce.Failures[0]
				}
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&mode, "mode", "m", "644", "permissions of a new file")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}
