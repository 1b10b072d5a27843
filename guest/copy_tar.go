package guest

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// UnpackTar copies what a tar archive has to a directory of the guest, which is
// made if it is missing and the directory above it is there. The archive is read
// once, to the end of r, and is not kept on either side.
//
// What an archive may do is bounded as in CopyFrom: a name that is absolute or has
// "..", a device, a FIFO, and a symbolic link that leads out of the directory,
// unless CopyOptions.OutsideLinks is set, is a failure of that entry. Hard links
// are always made. With Archive, owners are kept as in CopyTo, and extended
// attributes of the namespace "user".
//
// As in CopyTo, a file of the guest is the old one or the whole new one, also if
// the archive ends too early, which is a failure. Unlike CopyTo it cannot go on
// after a connection was lost, as the archive cannot be read again; a second call
// with Resume and the same archive skips the files that are there. When ctx ends,
// UnpackTar returns, and a Read of r may still be under way.
func (f *Files) UnpackTar(ctx context.Context, r io.Reader, destination string, opts *CopyOptions) (*CopyResult, error) {
	opts, err := opts.checked()
	if err != nil {
		return &CopyResult{}, err
	}
	c := &copying{files: f, opts: opts}
	words := append([]string{"unpack", f.g.target, f.User, f.Group, destination}, opts.words()...)
	id := transferID(words...)
	open := &guestv1.UploadOpen{Subject: f.subject(), TransferId: id[:], Destination: []byte(destination), Names: [][]byte{nil}, Options: opts.message(), Resume: opts.Resume}
	read, write := io.Pipe()
	defer read.Close()
	go func() {
		_, err := io.CopyBuffer(write, struct{ io.Reader }{r}, make([]byte, tarBuffer))
		write.CloseWithError(err)
	}()
	method := guestv1.FileService_Upload_FullMethodName
	return c.run(ctx, method, func(ctx context.Context, _ bool, _ *guestv1.Position) (*guestv1.Finished, error) {
		st, err := f.g.newCopyStream(ctx, method)
		if err != nil {
			return nil, err
		}
		_ = st.SendMsg(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: open}})
		finished, err := archive.SendTar(pacedSend{st, c.pace()}, read, &archive.TarSendConfig{
			Options: open.Options, Resume: opts.Resume, OutsideLinks: opts.OutsideLinks, Xattr: userXattr, OnDone: c.done,
		})
		if errors.Is(err, archive.ErrCut) {
			err = c.tarCut(ctx, method, err)
		}
		return finished, err
	})
}

// tarBuffer is how much of an archive is read or written at once.
const tarBuffer = 256 << 10

// tarCut makes the loss of a connection final.
func (c *copying) tarCut(ctx context.Context, method string, err error) error {
	e, ok := errors.AsType[*Error](c.files.g.wrap("copy", method, err))
	if !ok || e.Code != codes.Unavailable || ctx.Err() != nil {
		return err
	}
	lost := *e
	lost.Code = codes.Aborted
	lost.message += "; the archive cannot be read a second time to go on"
	lost.Remedy = "copy the same archive again with --resume: what is there is skipped"
	return &lost
}

// PackTar writes files of the guest to w as a tar archive. Sources are as in
// CopyFrom; each is at the top of the archive under its own name, and what is in
// "DIR/." as "./...". Owners and hard links are always in it, extended attributes
// of the namespace "user" with Archive, set-user-id bits with KeepSetuid. The
// archive is of the format that POSIX calls pax.
//
// The guest is not trusted: no name in the archive is absolute or has "..", each
// is below a directory that the archive has too, and MaxEntries and MaxBytes bound
// it. Symbolic links are in it as the guest has them; whoever unpacks it has to
// see to where they lead.
//
// A lost connection is re-established as in CopyTo. A file that shrinks or fails while
// it is read is a failure, and has zeros in the archive instead of the rest.
// Resume is of no use here, and an error. When ctx ends, PackTar returns, and a
// Write of w may still be under way.
func (f *Files) PackTar(ctx context.Context, sources []string, w io.Writer, opts *CopyOptions) (*CopyResult, error) {
	opts, err := opts.checked()
	if err != nil {
		return &CopyResult{}, err
	}
	if opts.Resume || opts.NoReplace {
		return &CopyResult{}, f.g.newError("copy", codes.InvalidArgument, ReasonProtocol, "an archive that is written anew cannot be gone on with")
	}
	c := &copying{files: f, opts: opts}
	words := append([]string{"pack", f.g.target, f.User, f.Group}, opts.words()...)
	open := &guestv1.DownloadOpen{Subject: f.subject(), Options: opts.message()}
	open.Options.Archive = true
	names, err := openSources(open, sources)
	if err != nil {
		return &CopyResult{}, err
	}
	id := transferID(append(words, sources...)...)
	open.TransferId = id[:]
	read, write := io.Pipe()
	written := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, read, make([]byte, tarBuffer))
		read.CloseWithError(err)
		written <- err
	}()
	defer context.AfterFunc(ctx, func() { read.CloseWithError(context.Cause(ctx)) })()
	packer := archive.NewTarWriter(write, &archive.TarConfig{
		Names: names, Xattrs: opts.Archive, KeepSetuid: opts.KeepSetuid, MaxEntries: opts.MaxEntries, MaxBytes: opts.MaxBytes, OnDone: c.done,
	})
	method := guestv1.FileService_Download_FullMethodName
	result, err := c.run(ctx, method, func(ctx context.Context, resume bool, after *guestv1.Position) (*guestv1.Finished, error) {
		st, err := f.g.conn.NewStream(ctx, &copyDesc, method)
		if err != nil {
			return nil, err
		}
		open.Resume, open.After = resume, after
		_ = st.SendMsg(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Open{Open: open}})
		return packer.Receive(pacedReceive{st, c.pace()})
	})
	_, partly := errors.AsType[*CopyError](err)
	if err != nil && (!partly || !packer.Began()) {
		write.CloseWithError(io.ErrUnexpectedEOF)
		if ctx.Err() == nil {
			<-written
		}
		return result, err
	}
	closeErr := packer.Close()
	write.Close()
	select {
	case writeErr := <-written:
		closeErr = errors.Join(closeErr, writeErr)
	case <-ctx.Done():
		closeErr = ctx.Err()
	}
	if closeErr != nil && err == nil {
		err = closeErr
	}
	return result, err
}
