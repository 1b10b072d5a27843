package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/vsockrpc/vsockrpc/guest"
)

// isFilePath tells a path from a session, which has neither a slash nor a tilde.
func isFilePath(arg string) bool { return strings.ContainsAny(arg, "/~") }

// removeFile removes a file, or with recursive a directory. With force it is no
// error that there is none.
func removeFile(ctx context.Context, g *guest.Guest, user, path string, recursive, force bool) error {
	files := filesAs(g, user)
	path = guestPath(path)
	if !recursive {
		err := files.Remove(ctx, path)
		if force && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if !force {
		if _, err := files.Lstat(ctx, path); err != nil {
			return err
		}
	}
	return files.RemoveAll(ctx, path)
}
