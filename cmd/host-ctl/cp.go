package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

func (c *cli) cpCommand() *cobra.Command {
	var opts guest.CopyOptions
	var flags cpFlags
	cmd := &cobra.Command{
		Use:   "cp [flags] SRC... DST",
		Short: "Copy files and directories to or from a guest, or between guests",
		Long: `Copy files and directories to or from a guest, or from one guest to another. A
file of a guest is GUEST:PATH, where a PATH that does not begin with / is below the
home of the user, and may be a pattern if it is quoted; a local name with a colon
needs ./ before it. A directory is copied with all in it, and DIR/. means what is in
it. New files have the permissions of the source; those that are replaced keep theirs,
with their owner, unless -p or -a is given. Times of modification are kept.

SRC - is a tar archive on stdin, which is unpacked into the directory DST; DST - is
one on stdout, of the sources.

A file of the destination is always the old one or the whole new one. When the
connection is lost the copy goes on by itself as soon as it is back; after
host-ctl was killed, --resume goes on where that copy was.`,
		Example: `  host-ctl cp build.tar 3:/srv/
  host-ctl cp -a web:/etc/. ./etc-of-web
  host-ctl cp -a web:/srv/data 4:/srv/
  host-ctl cp 'web:/var/log/*.log' logs/
  host-ctl cp --delete --exclude='*.o' build/. web:build
  host-ctl cp web:/var/log - | gzip > log.tar.gz
  git archive HEAD | host-ctl cp - web:/srv/app`,
		ValidArgsFunction: c.completeOperand,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError{errors.New("want SRC... and DST")}
			}
			if err := flags.check(&opts); err != nil {
				return err
			}
			return c.copy(cmd, args, &flags, &opts)
		},
	}
	flags.add(cmd, &opts)
	return cmd
}

// copy copies what the operands say.
func (c *cli) copy(cmd *cobra.Command, args []string, flags *cpFlags, opts *guest.CopyOptions) error {
	user := flags.user
	o, err := parseOperands(args)
	if err != nil {
		return err
	}
	switch {
	case (o.toTar || o.fromTar) && (opts.Delete || flags.parents):
		return usageError{errors.New("--delete and --parents do not go with an archive")}
	case o.toTar && (opts.Resume || opts.Checksum || opts.NoReplace):
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
		sources, err := sourcesOf(ctx, o, files)
		if err != nil {
			return err
		}
		p := c.newProgress(flags.quiet || flags.list)
		opts.Progress = p.update
		if flags.list {
			opts.Each = func(below string) {
				fmt.Fprintln(c.stderr, visibleLine(cmp.Or(below, path.Base(sources[0]))))
			}
		}
		var result *guest.CopyResult
		do := func(sources []string, dst string) (*guest.CopyResult, error) {
			switch {
			case o.toTar:
				return files.PackTar(ctx, sources, c.stdout, opts)
			case o.fromTar:
				return files.UnpackTar(ctx, c.stdin, dst, opts)
			case o.from != "" && o.to != "":
				return files.CopyToGuest(ctx, sources, filesAs(other, user), dst, opts)
			case o.to != "":
				return files.CopyTo(ctx, sources, dst, opts)
			}
			return files.CopyFrom(ctx, sources, dst, opts)
		}
		if flags.parents {
			result, err = withParents(sources, o.dst, func(dir string) error {
				if o.to != "" {
					return filesAs(other, user).MkdirAll(ctx, dir, 0o777)
				}
				return os.MkdirAll(dir, 0o777)
			}, do)
		} else {
			result, err = do(sources, o.dst)
		}
		p.end()
		if result != nil && result.SetuidDropped > 0 && !o.toTar {
			fmt.Fprintf(c.stderr, "host-ctl: %d files or directories are without their set-user-id or set-group-id bits: --setuid keeps them\n", result.SetuidDropped)
		}
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
