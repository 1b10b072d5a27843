package main

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) mkdirCommand() *cobra.Command {
	var parents bool
	var mode, user string
	cmd := &cobra.Command{
		Use:               "mkdir [flags] GUEST PATH...",
		Short:             "Make directories in a guest",
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 1, -1)
			if err != nil {
				return err
			}
			bits, err := strconv.ParseUint(mode, 8, 9)
			if err != nil {
				return usageError{fmt.Errorf("mode %q: want up to three octal digits", mode)}
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				files := filesAs(g, user)
				return each(paths, func(path string) error {
					if parents {
						return files.MkdirAll(ctx, guestPath(path), fs.FileMode(bits))
					}
					return files.Mkdir(ctx, guestPath(path), fs.FileMode(bits))
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "the directories above too; no error if it exists")
	cmd.Flags().StringVarP(&mode, "mode", "m", "777", "permissions, less the agent's umask")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}
