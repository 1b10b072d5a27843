package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] GUEST SESSION...",
		Short: "Have a guest forget sessions that have ended",
		Long: `Have a guest forget sessions that have ended, with their output and result. With
--force, sessions that run are ended first.`,
		ValidArgsFunction: c.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := guestArg(args, 1, -1)
			if err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				return each(rest, func(arg string) error {
					id, err := sessionID(ctx, g, arg)
					if err != nil {
						return err
					}
					return g.RemoveSession(ctx, id, force)
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "end sessions that run")
	return cmd
}
