package main

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) catCommand() *cobra.Command {
	var user string
	var offset, length uint64
	var follow bool
	cmd := &cobra.Command{
		Use:   "cat [flags] GUEST PATH...",
		Short: "Print files of a guest",
		Long: `Print files of a guest. On a terminal control characters are made visible; into a
file or a pipe the bytes go as they are.`,
		ValidArgsFunction: c.completePath,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, paths, err := fileArgs(args, 1, -1)
			if err != nil {
				return err
			}
			if follow && (len(paths) > 1 || length > 0) {
				return usageError{errors.New("-f is for one file, to no end")}
			}
			return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
				return each(paths, func(path string) error {
					out := c.stdout
					if isTerminal(out) {
						out = visibleWriter{out}
					}
					if follow {
						return quietPipe(filesAs(g, user).Follow(ctx, out, guestPath(path), offset))
					}
					return quietPipe(filesAs(g, user).CopyRange(ctx, out, guestPath(path), offset, length))
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is appended, also to a file that gets the name, until interrupted")
	cmd.Flags().Uint64Var(&offset, "offset", 0, "begin at this byte")
	cmd.Flags().Uint64Var(&length, "length", 0, "print so many bytes at most; 0: to the end")
	cmd.Flags().StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}

// visibleWriter makes what is written visible. What is split between two writes
// may be shown as its bytes.
type visibleWriter struct{ w io.Writer }

func (v visibleWriter) Write(p []byte) (int, error) {
	for part := range slices.Chunk(p, maxText) {
		if err := printVisible(v.w, "%s", part); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
