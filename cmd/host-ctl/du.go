package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// usedSpace is a tree as du -o json has it. Fields are only added.
type usedSpace struct {
	Path        string `json:"path"`
	Allocated   uint64 `json:"allocated_bytes"`
	Apparent    uint64 `json:"apparent_bytes"`
	Files       uint64 `json:"files"`
	Directories uint64 `json:"directories"`
	Unreadable  uint64 `json:"unreadable,omitempty"`
}

func (c *cli) duCommand() *cobra.Command {
	var l listing
	var user string
	cmd := &cobra.Command{
		Use:               "du [flags] GUEST PATH...",
		Short:             "Sum up what files and directories of a guest take on disk",
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 1, -1)
			if err != nil {
				return err
			}
			if err := checkFormat(l.format); err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				p := l.printer(c.stdout, ">SIZE", ">APPARENT", ">FILES", "PATH")
				err := each(paths, func(path string) error {
					m, err := filesAs(g, user).DiskUsage(ctx, guestPath(path))
					if err != nil {
						return err
					}
					v := usedSpace{path, m.AllocatedBytes, m.ApparentBytes, m.Files, m.Directories, m.Unreadable}
					return p.row(path, v, size(v.Allocated), size(v.Apparent), strconv.FormatUint(v.Files, 10), path)
				})
				if closeErr := p.close(); err == nil {
					err = closeErr
				}
				return err
			})
		},
	}
	outputFlag(cmd, &l.format)
	cmd.Flags().Bool("help", false, "help for du") // -h is another
	ignored(cmd.Flags(), "human-readable", "h")
	ignored(cmd.Flags(), "summarize", "s")
	cmd.Flags().BoolVar(&l.noHeaders, "no-headers", false, "no heading line")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}
