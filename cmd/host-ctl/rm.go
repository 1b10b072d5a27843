package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) rmCommand() *cobra.Command {
	var force, recursive bool
	var user string
	cmd := &cobra.Command{
		Use:   "rm [flags] GUEST PATH|SESSION...",
		Short: "Remove files of a guest, or have it forget sessions that have ended",
		Long: `Remove files of a guest; PATH has a slash in it, ./name if need be. With -r,
directories with all in them; with --force, it is no error if there is none.

Or have a guest forget sessions that have ended, with their output and result.
With --force, sessions that run are ended first, and it is no error if there is none.`,
		ValidArgsFunction: c.completeSessions,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := fileArgs(args, 1, -1)
			if err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				named := len(args) == len(rest) && args[0] != rest[0] // GUEST:PATH
				rest, err := expand(ctx, filesAs(g, user), rest)
				if err != nil {
					return err
				}
				return each(rest, func(arg string) error {
					if named || isFilePath(arg) {
						return removeFile(ctx, g, user, arg, recursive, force)
					}
					return removeSession(ctx, g, arg, force)
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "no error if there is no such file or session; end sessions that run")
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "directories with all in them")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}

// removeSession has the guest forget a session. With force it may run, or be gone.
func removeSession(ctx context.Context, g *guest.Guest, arg string, force bool) error {
	id, err := sessionID(ctx, g, arg)
	if err == nil {
		err = g.RemoveSession(ctx, id, &guest.RemoveOptions{Force: force})
	}
	_, unknown := errors.AsType[noSessionError](err)
	e, ok := errors.AsType[*guest.Error](err)
	if force && (unknown || ok && e.Code == codes.NotFound) {
		return nil
	}
	return err
}
