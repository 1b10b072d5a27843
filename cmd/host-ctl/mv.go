package main

import (
	"context"
	"errors"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) mvCommand() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:               "mv [flags] GUEST SRC... DST",
		Short:             "Rename files of a guest, or move them to a directory of the same file system",
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 2, -1)
			if err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				files := filesAs(g, user)
				sources, dst := paths[:len(paths)-1], guestPath(paths[len(paths)-1])
				info, err := files.Stat(ctx, dst)
				into := err == nil && info.IsDir()
				if !into && (len(sources) > 1 || strings.HasSuffix(dst, "/")) {
					return errors.Join(err, errors.New(dst+" is no directory"))
				}
				return each(sources, func(src string) error {
					src = guestPath(src)
					if into {
						return files.Rename(ctx, src, strings.TrimRight(dst, "/")+"/"+path.Base(src))
					}
					return files.Rename(ctx, src, dst)
				})
			})
		},
	}
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}
