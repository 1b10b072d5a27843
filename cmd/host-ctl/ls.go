package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// listedFile is a file as ls and stat -o json have it. Fields are only added.
type listedFile struct {
	Path     string    `json:"path"`
	Mode     string    `json:"mode"`
	Type     string    `json:"type"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	User     string    `json:"user,omitempty"`
	Group    string    `json:"group,omitempty"`
	Links    uint64    `json:"links,omitempty"`
	Inode    uint64    `json:"inode,omitempty"`
	Target   string    `json:"target,omitempty"`
}

func newListedFile(path string, info guest.FileInfo) listedFile {
	m, _ := info.Sys().(*guestv1.FileInfo)
	l := listedFile{Path: path, Mode: fmt.Sprintf("%04o", m.GetMode()&0o7777), Size: info.Size(), Modified: info.ModTime().UTC(),
		UID: m.GetUid(), GID: m.GetGid(), User: string(m.GetUser()), Group: string(m.GetGroup()),
		Links: m.GetLinks(), Inode: m.GetInode(), Target: string(m.GetLinkTarget())}
	switch mode := info.Mode(); {
	case mode.IsDir():
		l.Type = "directory"
	case mode.IsRegular():
		l.Type = "file"
	case l.Target != "":
		l.Type = "link"
	default:
		l.Type = "special"
	}
	return l
}

// owner returns the owner's name, or number.
func owner(name string, id uint32) string {
	if name != "" {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

func (c *cli) lsCommand() *cobra.Command {
	var l listing
	var long, all, recursive, human, byTime, directory bool
	var user string
	cmd := &cobra.Command{
		Use:               "ls [flags] GUEST [PATH...]",
		Short:             "List files of a guest",
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 0, -1)
			if err != nil {
				return err
			}
			if err := checkFormat(l.format); err != nil {
				return err
			}
			if len(paths) == 0 {
				paths = []string{"."}
			}
			opts := &guest.ListOptions{Brief: !long && l.format != "json"}
			if recursive {
				opts.Depth = 1 << 20
			}
			l.quiet = l.format != "json" && !long
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				files := filesAs(g, user)
				paths, err := expand(ctx, files, paths)
				if err != nil {
					return err
				}
				p := l.printer(c.stdout, "MODE", ">LINKS", "USER", "GROUP", ">SIZE", "MODIFIED", "NAME")
				how := &listingFiles{files: files, all: all, human: human, byTime: byTime, directory: directory, several: len(paths) > 1, opts: opts, p: p}
				err = each(paths, func(path string) error { return how.list(ctx, guestPath(path)) })
				return errors.Join(err, p.close())
			})
		},
	}
	outputFlag(cmd, &l.format)
	cmd.Flags().BoolVar(&l.noHeaders, "no-headers", false, "no heading line")
	cmd.Flags().BoolVarP(&long, "long", "l", false, "permissions, owners, sizes and times too")
	cmd.Flags().Bool("help", false, "help for ls") // -h is another
	cmd.Flags().BoolVarP(&human, "human-readable", "h", false, "with -l: sizes such as 1.5M")
	cmd.Flags().BoolVarP(&byTime, "time", "t", false, "the newest first")
	ignored(cmd.Flags(), "one", "1") // there is always one name a line
	cmd.Flags().BoolVarP(&directory, "directory", "d", false, "directories themselves, not what is in them")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "names that begin with a dot too")
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "directories below too")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}
