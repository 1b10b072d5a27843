package guest

import (
	"context"
	"path"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// CopyToGuest copies files of this guest to another one, or to another place in
// the same. Destination, sources, options and result are as in CopyTo, and so is
// what happens when a connection is lost, of either guest. What is copied passes
// through this process and is not kept here.
//
// The guest that sends is not trusted with what is beyond the destination: as in
// CopyFrom nothing else is made but directories, files, hard links and symbolic
// links, which must lead to something beneath the destination unless
// CopyOptions.OutsideLinks is set, and MaxEntries and MaxBytes bound it. With
// Archive, owners are kept where the user of to is root, by name where the other
// guest has it; of extended attributes those of the namespace "user".
func (f *Files) CopyToGuest(ctx context.Context, sources []string, to *Files, destination string, opts *CopyOptions) (*CopyResult, error) {
	opts, err := opts.checked()
	if err != nil {
		return &CopyResult{}, err
	}
	c := &copying{files: f, to: to, opts: opts}
	words := append([]string{f.g.target, f.User, f.Group, to.g.target, to.User, to.Group, destination}, opts.words()...)
	down := &guestv1.DownloadOpen{Subject: f.subject(), Options: opts.message()}
	up := &guestv1.UploadOpen{Subject: to.subject(), Options: opts.message()}
	names, err := openSources(down, sources)
	if err != nil {
		return &CopyResult{}, err
	}
	for i, source := range down.Sources {
		if f.g.target == to.g.target && isBelow(destination, string(source.Path)) {
			return &CopyResult{}, f.g.newError("copy", codes.InvalidArgument, ReasonIntoItself, "cannot copy "+sources[i]+" into itself, "+destination)
		}
	}
	words = append(words, sources...)
	// In one guest the two halves have to be told apart.
	downID, upID := transferID(append(words, "down")...), transferID(append(words, "up")...)
	down.TransferId, up.TransferId = downID[:], upID[:]
	method := guestv1.FileService_Download_FullMethodName
	list := make([]archive.Source, len(down.Sources))
	for i, s := range down.Sources {
		list[i] = archive.Source{Path: string(s.Path), Contents: s.Contents}
	}
	mirrored := c.mirror(ctx, f, to, list, names, destination)
	result, err := c.run(ctx, method, func(ctx context.Context, resume bool, after *guestv1.Position) (*guestv1.Finished, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		dst, names, err := c.destination(destination, names, path.Split, statIn(ctx, to))
		if err != nil {
			return nil, &archive.RelayError{Err: err}
		}
		sender, err := f.g.conn.NewStream(ctx, &copyDesc, method)
		if err != nil {
			return nil, &archive.RelayError{Sender: true, Err: err}
		}
		receiver, err := to.g.conn.NewStream(ctx, &copyDesc, guestv1.FileService_Upload_FullMethodName)
		if err != nil {
			return nil, &archive.RelayError{Err: err}
		}
		down.Resume, down.After = resume, after
		up.Destination, up.Names, up.Resume, up.Replace, up.Attempt = []byte(dst), toBytes(names), resume, !opts.Resume, c.tries()
		// What a failed SendMsg means, Relay says.
		_ = receiver.SendMsg(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: up}})
		_ = sender.SendMsg(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Open{Open: down}})
		return archive.Relay(pacedReceive{sender, c.pace()}, receiver, cancel, &archive.RelayConfig{
			Names: names, OutsideLinks: opts.OutsideLinks, Archive: opts.Archive, Xattr: userXattr, Memory: &c.memory,
			MaxEntries: opts.MaxEntries, MaxBytes: opts.MaxBytes, OnDone: c.done,
		})
	})
	if err == nil {
		err = c.deleteOthers(ctx, f, to, mirrored, result)
	}
	return result, err
}

// userXattr reports whether an extended attribute is one that a guest may have
// set elsewhere.
func userXattr(name string) bool { return strings.HasPrefix(name, "user.") }

// isBelow reports whether a path is another one or below it, as far as their
// names tell.
func isBelow(name, dir string) bool {
	name, dir = path.Clean(name), path.Clean(dir)
	return strings.HasPrefix(name+"/", strings.TrimRight(dir, "/")+"/")
}
