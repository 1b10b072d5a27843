package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// freeSpace is a file system as df -o json has it. Fields are only added.
type freeSpace struct {
	Path       string `json:"path"`
	MountPoint string `json:"mount_point,omitempty"`
	Source     string `json:"source,omitempty"`
	Type       string `json:"type,omitempty"`
	Total      uint64 `json:"total_bytes"`
	Free       uint64 `json:"free_bytes"`
	Available  uint64 `json:"available_bytes"`
	Files      uint64 `json:"total_files"`
	FreeFiles  uint64 `json:"free_files"`
	ReadOnly   bool   `json:"read_only,omitempty"`
}

func (c *cli) dfCommand() *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:               "df [flags] GUEST [PATH...]",
		Short:             "Show how full file systems of a guest are",
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 0, -1)
			if err != nil {
				return err
			}
			if err := checkFormat(l.format); err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				p := l.printer(c.stdout, "FILESYSTEM", "TYPE", ">SIZE", ">USED", ">AVAIL", ">USE%", "MOUNTED", "PATH")
				all := len(paths) == 0
				if all {
					paths = mountPoints(ctx, g.Files())
				}
				err := each(paths, func(path string) error {
					m, err := g.Files().DiskFree(ctx, guestPath(path))
					if all && path != "/" && (err != nil || m.TotalBytes == 0) {
						return nil // such as /proc, or not for this user
					}
					if err != nil {
						return err
					}
					used := m.TotalBytes - min(m.FreeBytes, m.TotalBytes)
					percent := "-"
					if all := used + m.AvailableBytes; all > 0 {
						percent = fmt.Sprintf("%d%%", uint64(float64(used)/float64(all)*100+0.5))
					}
					v := freeSpace{Path: path, MountPoint: string(m.MountPoint), Source: string(m.Source), Type: string(m.TypeName), Total: m.TotalBytes,
						Free: m.FreeBytes, Available: m.AvailableBytes, Files: m.TotalFiles, FreeFiles: m.FreeFiles, ReadOnly: m.ReadOnly}
					return p.row(path, v, v.Source, v.Type, size(v.Total), size(used), size(v.Available), percent, v.MountPoint, path)
				})
				if closeErr := p.close(); err == nil {
					err = closeErr
				}
				return err
			})
		},
	}
	outputFlag(cmd, &l.format)
	cmd.Flags().Bool("help", false, "help for df") // -h is another
	ignored(cmd.Flags(), "human-readable", "h")
	cmd.Flags().BoolVar(&l.noHeaders, "no-headers", false, "no heading line")
	return cmd
}
