package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) cpCommand() *cobra.Command {
	var opts guest.CopyOptions
	var user, fsync, format string
	var quiet, recursive bool
	cmd := &cobra.Command{
		Use:   "cp [flags] SRC... DST",
		Short: "Copy files and directories to or from a guest, or between guests",
		Long: `Copy files and directories to or from a guest, or from one guest to another. A
file of a guest is GUEST:PATH, where PATH begins with /, . or ~; a local name with
such a colon needs ./ before it. A directory is copied with all in it, and DIR/.
means what is in it. Permissions and times of modification are kept.

SRC - is a tar archive on stdin, which is unpacked into the directory DST; DST - is
one on stdout, of the sources.

A file of the destination is always the old one or the whole new one. When the
connection is lost the copy goes on by itself as soon as it is back; after
host-ctl was killed, --resume goes on where that copy was.`,
		Example: `  host-ctl cp build.tar 3:/srv/
  host-ctl cp -a web:/etc/. ./etc-of-web
  host-ctl cp -a web:/srv/data 4:/srv/
  host-ctl cp web:/var/log - | gzip > log.tar.gz
  git archive HEAD | host-ctl cp - web:/srv/app`,
		ValidArgsFunction: c.completeOperand,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError{errors.New("want SRC... and DST")}
			}
			if err := checkFormat(format); err != nil {
				return err
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
	outputFlag(cmd, &format)
	f := cmd.Flags()
	f.Lookup("output").Usage = "how failures are told: table (text) or json, one object a line"
	f.BoolVarP(&opts.Archive, "archive", "a", false, "keep owners, extended attributes and hard links too")
	f.BoolVarP(&opts.Follow, "follow-link", "L", false, "copy what symbolic links lead to")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	f.BoolVarP(&recursive, "recursive", "r", false, "accepted and ignored: directories are always copied")
	f.BoolVar(&opts.Resume, "resume", false, "go on from what an earlier copy left, and skip files that are there")
	f.BoolVar(&opts.Checksum, "checksum", false, "with --resume: compare the SHA-256 of files, not size and time alone")
	f.BoolVar(&opts.KeepSetuid, "setuid", false, "keep set-user-id and set-group-id bits")
	f.BoolVar(&opts.OutsideLinks, "outside-links", false, "from a guest or an archive: make symbolic links that lead out of DST")
	f.StringVar(&fsync, "fsync", "batch", "make files durable: batch, each or none")
	f.StringVarP(&user, "user", "u", "", "user to act as in the guests, NAME|UID[:GROUP]")
	cmd.RegisterFlagCompletionFunc("fsync", cobra.FixedCompletions([]string{"batch", "each", "none"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// copy copies what the operands say.
func (c *cli) copy(cmd *cobra.Command, args []string, user string, quiet bool, opts *guest.CopyOptions) error {
	o, err := parseOperands(args)
	if err != nil {
		return err
	}
	switch {
	case o.toTar && (opts.Resume || opts.Checksum):
		return usageError{errors.New("an archive on stdout cannot be resumed")}
	case o.toTar && isTerminal(c.stdout):
		return usageError{errors.New("stdout is a terminal: an archive does not go there")}
	case o.fromTar && opts.Follow:
		return usageError{errors.New("-L does not go with an archive")}
	case o.fromTar && isTerminal(c.stdin):
		return usageError{errors.New("stdin is a terminal: want an archive there")}
	}
	if o.toTar {
		// That nobody reads any more is an error of Write.
		signal.Ignore(syscall.SIGPIPE)
	}
	first := o.from
	if first == "" {
		first = o.to
	}
	return c.withGuest(cmd, first, func(ctx context.Context, g *guest.Guest) error {
		other := g
		if o.from != "" && o.to != "" && o.from != o.to {
			var err error
			if other, err = c.dial(ctx, o.to); err != nil {
				return err
			}
			defer other.Close()
		}
		files := filesAs(g, user)
		p := c.newProgress(quiet)
		opts.Progress = p.update
		var err error
		switch {
		case o.toTar:
			_, err = files.PackTar(ctx, o.sources, c.stdout, opts)
		case o.fromTar:
			_, err = files.UnpackTar(ctx, c.stdin, o.dst, opts)
		case o.from != "" && o.to != "":
			_, err = files.CopyToGuest(ctx, o.sources, filesAs(other, user), o.dst, opts)
		case o.to != "":
			_, err = files.CopyTo(ctx, o.sources, o.dst, opts)
		default:
			_, err = files.CopyFrom(ctx, o.sources, o.dst, opts)
		}
		p.end()
		if _, ok := errors.AsType[interrupted](context.Cause(ctx)); ok && err != nil && !o.toTar {
			fmt.Fprintln(c.stderr, "host-ctl: interrupted: the same command with --resume goes on from here")
		}
		if ce, ok := errors.AsType[*guest.CopyError](err); ok && len(ce.Failures) > 1 {
			hints := make(map[string]bool)
			for _, failure := range ce.Failures {
				if c.asJSON(cmd) {
					c.reportJSON(failure)
					continue
				}
				fmt.Fprintf(c.stderr, "host-ctl: %s\n", visibleLine(failure.Error()))
				hints[guest.Remedy(failure)] = true
			}
			for _, hint := range slices.Sorted(maps.Keys(hints)) {
				if hint != "" {
					fmt.Fprintf(c.stderr, "host-ctl: hint: %s\n", visibleLine(hint))
				}
			}
			if n := ce.Failed - min(ce.Failed, uint64(len(ce.Failures))); n > 0 {
				fmt.Fprintf(c.stderr, "host-ctl: and %d more\n", n)
			}
			return exitCode(exitFailure)
		}
		return quietPipe(err)
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
