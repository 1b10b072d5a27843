package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) statCommand() *cobra.Command {
	var format, user string
	var follow bool
	cmd := &cobra.Command{
		Use:               "stat [flags] GUEST PATH...",
		Short:             "Describe files of a guest",
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 1, -1)
			if err != nil {
				return err
			}
			if err := checkFormat(format); err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				files := filesAs(g, user)
				return each(paths, func(path string) error {
					stat := files.Lstat
					if follow {
						stat = files.Stat
					}
					info, err := stat(ctx, guestPath(path))
					if err != nil {
						return err
					}
					v := newListedFile(path, info)
					if format == "json" {
						return writeJSON(c.stdout, v)
					}
					name := visibleLine(v.Path)
					if v.Target != "" {
						name += " -> " + visibleLine(v.Target)
					}
					_, err = fmt.Fprintf(c.stdout, "Path:      %s\nType:      %s\nSize:      %d\nMode:      %s (%s)\nOwner:     %s (%d)\nGroup:     %s (%d)\nLinks:     %d\nInode:     %d\nModified:  %s\n",
						name, v.Type, v.Size, v.Mode, modeString(info.Mode()), visibleLine(owner(v.User, v.UID)), v.UID, visibleLine(owner(v.Group, v.GID)), v.GID,
						v.Links, v.Inode, info.ModTime().Format(time.RFC3339Nano))
					return quietPipe(err)
				})
			})
		},
	}
	outputFlag(cmd, &format)
	cmd.Flags().BoolVarP(&follow, "follow", "L", false, "what a symbolic link leads to")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}
