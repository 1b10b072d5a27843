package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// listingFiles is how ls lists files.
type listingFiles struct {
	files                         *guest.Files
	all, human, byTime, directory bool
	several                       bool // names begin with the path that was asked for
	opts                          *guest.ListOptions
	p                             *printer
	listed                        int // paths
}

// maxSorted bounds the bytes of files that are held to sort them, sortedFile is what one
// has beside its texts.
const (
	maxSorted  = 8 << 20
	sortedFile = 512
)

// list lists one path.
func (l *listingFiles) list(ctx context.Context, path string) error {
	if l.directory {
		info, err := l.files.Lstat(ctx, path)
		if err != nil {
			return err
		}
		return l.row(path, info)
	}
	var failed failures
	var held []guest.FileInfo
	bytes := 0 // of held
	headed := !l.several || l.p.format == "json"
	for info, err := range l.files.List(ctx, path, l.opts) {
		if err != nil {
			failed.add(err)
			continue
		}
		if info.Path() != "" && !l.all && isHidden(info.Path()) {
			continue
		}
		if !headed && info.Path() != "" {
			headed = true
			if err := l.heading(path); err != nil {
				return err
			}
		}
		if l.byTime {
			m, _ := info.Sys().(*guestv1.FileInfo)
			if bytes += sortedFile + proto.Size(m); bytes > maxSorted {
				return fmt.Errorf("%s has too many files to sort: %d and more", path, len(held))
			}
			held = append(held, info)
			continue
		}
		if err := l.row(path, info); err != nil {
			return err
		}
	}
	slices.SortStableFunc(held, func(a, b guest.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, info := range held {
		if err := l.row(path, info); err != nil {
			return err
		}
	}
	return failed.err()
}

// heading prints the name of a directory before what is in it, as ls(1) does.
func (l *listingFiles) heading(path string) error {
	if err := l.p.close(); err != nil {
		return err
	}
	before := "\n"
	if l.listed++; l.listed == 1 && l.p.quiet {
		before = ""
	}
	_, err := fmt.Fprintf(l.p.out, "%s%s:\n", before, visibleLine(path))
	return quietPipe(err)
}

// row prints a file, which may be path itself.
func (l *listingFiles) row(path string, info guest.FileInfo) error {
	name := info.Path()
	if name == "" || l.directory {
		name = path
	}
	v := newListedFile(name, info)
	shown, bytes := name, strconv.FormatInt(v.Size, 10)
	if v.Target != "" {
		shown += " -> " + v.Target
	}
	if l.human {
		bytes = size(uint64(v.Size))
	}
	return l.p.row(name, v, modeString(info.Mode()), strconv.FormatUint(v.Links, 10), owner(v.User, v.UID), owner(v.Group, v.GID),
		bytes, info.ModTime().Format("2006-01-02 15:04"), shown)
}
