package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/vsockrpc/vsockrpc/guest"
)

// fileArgs is guestArg for verbs whose further arguments are files of the guest. Those may
// also be GUEST:PATH, as for cp, each with the same guest, which then needs no argument of
// its own.
func fileArgs(args []string, min, max int) (string, []string, error) {
	if len(args) > 0 {
		if target, _, remote := splitOperand(args[0]); remote {
			paths := make([]string, len(args))
			for i, arg := range args {
				other, path, ok := splitOperand(arg)
				if !ok || other != target {
					return "", nil, usageError{errors.New("want GUEST:PATH of one guest everywhere, or the guest first and paths after it")}
				}
				paths[i] = path
			}
			// As if the guest had been the first argument.
			return guestArg(append([]string{target}, paths...), min, max)
		}
	}
	return guestArg(args, min, max)
}

// expand returns paths with the files that patterns among them stand for. A path that
// names a file is no pattern, and one that matches nothing stays as it is.
func expand(ctx context.Context, files *guest.Files, paths []string) ([]string, error) {
	var all []string
	for _, path := range paths {
		if !guest.HasGlob(path) {
			all = append(all, path)
			continue
		}
		if _, err := files.Lstat(ctx, guestPath(path)); !errors.Is(err, fs.ErrNotExist) {
			all = append(all, path)
			continue
		}
		found, err := files.Glob(ctx, guestPath(path))
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			found = []string{path}
		}
		all = append(all, found...)
	}
	return all, nil
}

// modeString returns a mode as ls(1) shows it.
func modeString(mode fs.FileMode) string {
	b := []byte("-rwxrwxrwx")
	for _, t := range []struct {
		is   fs.FileMode
		char byte
	}{{fs.ModeDir, 'd'}, {fs.ModeSymlink, 'l'}, {fs.ModeNamedPipe, 'p'}, {fs.ModeSocket, 's'}, {fs.ModeDevice | fs.ModeCharDevice, 'c'}, {fs.ModeDevice, 'b'}, {fs.ModeIrregular, '?'}} {
		if mode&t.is == t.is {
			b[0] = t.char
			break
		}
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	for _, s := range []struct {
		bit   fs.FileMode
		at    int
		chars string // with the right to execute, and without
	}{{fs.ModeSetuid, 3, "sS"}, {fs.ModeSetgid, 6, "sS"}, {fs.ModeSticky, 9, "tT"}} {
		if mode&s.bit != 0 {
			b[s.at] = s.chars[slices.Index([]bool{true, false}, b[s.at] == 'x')]
		}
	}
	return string(b)
}

// isHidden reports whether a name of a path begins with a dot.
func isHidden(path string) bool { return strings.HasPrefix(path, ".") || strings.Contains(path, "/.") }
