package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) cpCommand() *cobra.Command {
	var opts guest.CopyOptions
	var user, fsync string
	var quiet, recursive bool
	cmd := &cobra.Command{
		Use:   "cp [flags] SRC... DST",
		Short: "Copy files and directories to or from a guest",
		Long: `Copy files and directories to or from a guest. One side is GUEST:PATH, where PATH
begins with /, . or ~, the other a local path; a local name with such a colon
needs ./ before it. A directory is copied with all in it, and DIR/. means what is
in it. Permissions and times of modification are kept.

A file of the destination is always the old one or the whole new one. When the
connection is lost the copy goes on by itself as soon as it is back; after
host-ctl was killed, --resume goes on where that copy was.`,
		Example: `  host-ctl cp build.tar 3:/srv/
  host-ctl cp -a web:/etc/. ./etc-of-web`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError{errors.New("want SRC... and DST")}
			}
			switch fsync {
			case "batch":
			case "each":
				opts.Sync = guest.SyncEach
			case "none":
				opts.Sync = guest.SyncNone
			default:
				return usageError{fmt.Errorf("--fsync=%s: want batch, each or none", fsync)}
			}
			return c.copy(cmd, args, user, quiet, &opts)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.Archive, "archive", "a", false, "keep owners, extended attributes and hard links too")
	f.BoolVarP(&opts.Follow, "follow-link", "L", false, "copy what symbolic links lead to")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	f.BoolVarP(&recursive, "recursive", "r", false, "accepted and ignored: directories are always copied")
	f.BoolVar(&opts.Resume, "resume", false, "go on from what an earlier copy left, and skip files that are there")
	f.BoolVar(&opts.Checksum, "checksum", false, "with --resume: compare the SHA-256 of files, not size and time alone")
	f.BoolVar(&opts.KeepSetuid, "setuid", false, "keep set-user-id and set-group-id bits")
	f.BoolVar(&opts.OutsideLinks, "outside-links", false, "from a guest: make symbolic links that lead out of DST")
	f.StringVar(&fsync, "fsync", "batch", "make files durable: batch, each or none")
	f.StringVarP(&user, "user", "u", "", "user of the guest to act as, NAME|UID[:GROUP]")
	return cmd
}

// copy copies between this machine and one guest.
func (c *cli) copy(cmd *cobra.Command, args []string, user string, quiet bool, opts *guest.CopyOptions) error {
	sources, dst := args[:len(args)-1], args[len(args)-1]
	target, dstPath, to := splitOperand(dst)
	var paths []string
	for _, s := range sources {
		g, p, remote := splitOperand(s)
		switch {
		case remote == to && to:
			return usageError{errors.New("one side of a copy is local: copy between guests by way of a local directory")}
		case !remote && !to:
			return usageError{errors.New("neither side is a guest: want GUEST:PATH with a PATH that begins with /, . or ~")}
		case remote && target != "" && g != target:
			return usageError{errors.New("the sources are on several guests: copy from one after the other")}
		case remote:
			target = g
		}
		paths = append(paths, p)
	}
	return c.withGuest(cmd, target, func(ctx context.Context, g *guest.Guest) error {
		files := filesAs(g, user)
		p := c.newProgress(quiet)
		opts.Progress = p.update
		var err error
		if to {
			_, err = files.CopyTo(ctx, paths, dstPath, opts)
		} else {
			_, err = files.CopyFrom(ctx, paths, dstPath, opts)
		}
		p.end()
		if ce, ok := errors.AsType[*guest.CopyError](err); ok && len(ce.Failures) > 1 {
			for _, failure := range ce.Failures {
				fmt.Fprintf(c.stderr, "host-ctl: %s\n", visibleLine(failure.Error()))
			}
			return exitCode(exitFailure)
		}
		return err
	})
}

// filesAs returns the files of a guest as a user, or as the configured one.
func filesAs(g *guest.Guest, user string) *guest.Files {
	files := g.Files()
	if user != "" {
		files.User, files.Group, _ = strings.Cut(user, ":")
	}
	return files
}

// splitOperand splits GUEST:PATH. What is local comes back as path.
func splitOperand(s string) (target, path string, remote bool) {
	if strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "~") {
		return "", s, false
	}
	last := strings.HasPrefix(s, "unix:") || strings.HasPrefix(s, "vsock-mux:")
	at := -1
	for i := 0; i+1 < len(s); i++ {
		if s[i] == ':' && strings.IndexByte("/.~", s[i+1]) >= 0 && (last || at < 0) {
			at = i
		}
	}
	if at <= 0 || last && at == strings.IndexByte(s, ':') {
		return "", s, false
	}
	return s[:at], guestPath(s[at+1:]), true
}

// guestPath returns a path of the command line as the guest takes it: one that
// begins with ~ or does not begin with / is below the user's home.
func guestPath(p string) string {
	if p == "~" {
		return "."
	}
	if rest, ok := strings.CutPrefix(p, "~/"); ok {
		if rest = strings.TrimLeft(rest, "/"); rest == "" {
			return "."
		}
		return rest
	}
	return p
}
