package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// watchedEvent is an event as watch -o json has it. Fields are only added.
type watchedEvent struct {
	Event     string `json:"event"`
	Path      string `json:"path"`
	NewPath   string `json:"new_path,omitempty"`
	Directory bool   `json:"directory,omitempty"`
}

func (c *cli) watchCommand() *cobra.Command {
	var format, user string
	var recursive bool
	cmd := &cobra.Command{
		Use:   "watch [flags] GUEST PATH",
		Short: "Print what happens to a file or directory of a guest",
		Long: `Print what happens to a file or directory of a guest, until it is interrupted. A
line says "watching" when nothing is missed from then on, and "overflow" when
events were lost.`,
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 1, 1)
			if err != nil {
				return err
			}
			if err := checkFormat(format); err != nil {
				return err
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				out := bufio.NewWriter(c.stdout)
				for e, err := range filesAs(g, user).Watch(ctx, guestPath(paths[0]), &guest.WatchOptions{Recursive: recursive}) {
					if err != nil {
						return err
					}
					kind := strings.ToLower(strings.TrimPrefix(e.Kind.String(), "FILE_EVENT_KIND_"))
					if kind == "unspecified" {
						kind = "watching"
					}
					v := watchedEvent{kind, string(e.Path), string(e.NewPath), e.Directory}
					if format == "json" {
						err = writeJSON(out, v)
					} else {
						line := fmt.Sprintf("%-10s %s", visibleLine(v.Event), visibleLine(v.Path))
						if v.NewPath != "" {
							line += " -> " + visibleLine(v.NewPath)
						}
						_, err = fmt.Fprintln(out, strings.TrimRight(line, " "))
					}
					if err == nil {
						err = quietPipe(out.Flush())
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	outputFlag(cmd, &format)
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "directories below too")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}
