package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vsockrpc/vsockrpc/guest"
)

// cpFlags are the flags of cp that are not options of the copy as they are.
type cpFlags struct {
	user, fsync, format, bandwidth  string
	quiet, recursive, list, parents bool
}

func (o *cpFlags) add(cmd *cobra.Command, opts *guest.CopyOptions) {
	outputFlag(cmd, &o.format)
	f := cmd.Flags()
	f.Lookup("output").Usage = "how failures are told: table (text) or json, one object a line"
	f.BoolVarP(&opts.Archive, "archive", "a", false, "keep owners, extended attributes and hard links too")
	f.BoolVarP(&opts.Modes, "preserve", "p", false, "give files that are replaced the permissions of the source")
	f.BoolVarP(&opts.Follow, "follow-link", "L", false, "copy what symbolic links lead to")
	f.BoolVarP(&opts.NoReplace, "no-clobber", "n", false, "leave files alone that are there")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	f.BoolVarP(&o.list, "verbose", "v", false, "print the files as they are copied, on stderr")
	f.BoolVarP(&o.recursive, "recursive", "r", false, "accepted and ignored: directories are always copied")
	f.StringArrayVar(&opts.Exclude, "exclude", nil, "leave out files that match PATTERN by name or, with a slash, by their path below SRC")
	f.BoolVar(&o.parents, "parents", false, "make the directories of SRC's path below DST")
	f.BoolVar(&opts.Delete, "delete", false, "remove what is in directories of DST and not in SRC, when all was copied")
	f.BoolVar(&opts.InPlace, "in-place", false, "write into files that are there: they keep their inode and links")
	f.StringVar(&o.bandwidth, "bwlimit", "", "bytes a second at most, such as 500K or 10M")
	f.BoolVar(&opts.Resume, "resume", false, "go on from what an earlier copy left, and skip files that are there")
	f.BoolVar(&opts.Checksum, "checksum", false, "check by SHA-256, not by CRCs; with --resume also what is there, not by size and time alone")
	f.BoolVar(&opts.KeepSetuid, "setuid", false, "keep set-user-id and set-group-id bits")
	f.BoolVar(&opts.OutsideLinks, "outside-links", false, "from a guest or an archive: make symbolic links that lead out of DST")
	f.StringVar(&o.fsync, "fsync", "batch", "make files durable: batch, each or none")
	f.StringVarP(&o.user, "user", "u", "", "user to act as in the guests, NAME|UID[:GROUP]")
	cmd.RegisterFlagCompletionFunc("fsync", cobra.FixedCompletions([]string{"batch", "each", "none"}, cobra.ShellCompDirectiveNoFileComp))
}

// check sets the options that the flags stand for.
func (o *cpFlags) check(opts *guest.CopyOptions) (err error) {
	if err := checkFormat(o.format); err != nil {
		return err
	}
	switch o.fsync {
	case "batch":
	case "each":
		opts.Sync = guest.SyncEach
	case "none":
		opts.Sync = guest.SyncNone
	default:
		return usageError{fmt.Errorf("--fsync=%s: want batch, each or none", o.fsync)}
	}
	if o.bandwidth != "" {
		if opts.Bandwidth, err = parseSize(o.bandwidth); err != nil || opts.Bandwidth == 0 {
			return usageError{fmt.Errorf("--bwlimit=%s: want a number of bytes, such as 500K or 10M", o.bandwidth)}
		}
	}
	if opts.InPlace && opts.Archive {
		return usageError{errors.New("--in-place does not go with -a, which gives files another owner and mode")}
	}
	if opts.Delete && opts.Follow {
		return usageError{errors.New("--delete does not go with -L")}
	}
	return nil
}

// parseSize reads a number of bytes, which may end in K, M or G.
func parseSize(s string) (uint64, error) {
	number, unit := s, uint64(1)
	for i, suffix := range "KMG" {
		if rest, ok := strings.CutSuffix(strings.ToUpper(s), string(suffix)); ok {
			number, unit = rest, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err == nil && n > 1<<62/unit {
		err = strconv.ErrRange
	}
	return n * unit, err
}

// copyOne copies sources to a destination, whichever of them are of a guest.
type copyOne func(sources []string, dst string) (*guest.CopyResult, error)

// withParents copies each source below the destination with the directories of its path,
// which mkdir makes, and adds the results up.
func withParents(sources []string, dst string, mkdir func(dir string) error, do copyOne) (*guest.CopyResult, error) {
	total := &guest.CopyResult{}
	var all guest.CopyError
	for _, src := range sources {
		dir := strings.TrimRight(dst, "/") + "/" + strings.TrimLeft(path.Dir(path.Clean(filepath.ToSlash(strings.TrimRight(src, "/")))), "/")
		if strings.Contains("/"+dir+"/", "/../") && strings.HasPrefix(path.Clean(filepath.ToSlash(src)), "../") {
			return total, usageError{fmt.Errorf("--parents with %s, which leads out of where it begins", src)}
		}
		if err := mkdir(dir); err != nil {
			return total, err
		}
		r, err := do([]string{src}, dir+"/")
		if r != nil {
			total.SetuidDropped += r.SetuidDropped
		}
		ce, partly := errors.AsType[*guest.CopyError](err)
		if err != nil && !partly {
			return total, err
		}
		if partly {
			all.Failed, all.Failures = all.Failed+ce.Failed, append(all.Failures, ce.Failures...)
		}
	}
	if all.Failed > 0 {
		return total, &all
	}
	return total, nil
}

// sourcesOf returns the sources, with the files that patterns of a guest stand for.
func sourcesOf(ctx context.Context, o *operands, files *guest.Files) ([]string, error) {
	if o.from == "" {
		return o.sources, nil
	}
	return expand(ctx, files, o.sources)
}
