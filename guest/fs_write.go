package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/vsockrpc/vsockrpc/internal/archive"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// WriteFile writes data to a file of the guest, which has its old contents or the new
// ones, whatever happens, and is durable when WriteFile returns. A file that is there
// keeps its owner, permissions and attributes; a new one has the permissions of mode.
// What a symbolic link leads to is written, and the link stays.
func (f *Files) WriteFile(ctx context.Context, name string, data []byte, mode fs.FileMode) error {
	_, err := f.CopyReader(ctx, bytes.NewReader(data), name, mode, nil)
	return err
}

// CopyReader writes what r has, to its end, to a file of the guest, as CopyTo writes one
// with these options and WriteFile with this mode. After a lost connection it begins
// again if r is an io.Seeker, and fails otherwise. When ctx ends, CopyReader returns,
// and a Read of r may still be under way.
func (f *Files) CopyReader(ctx context.Context, r io.Reader, name string, mode fs.FileMode, opts *CopyOptions) (*CopyResult, error) {
	opts, err := opts.checked()
	if err != nil {
		return &CopyResult{}, err
	}
	base := path.Base(name)
	info, err := f.Stat(ctx, name)
	if err == nil && info.IsDir() || base == "." || base == ".." || base == "/" {
		return &CopyResult{}, &fs.PathError{Op: "write", Path: name, Err: syscall.EISDIR}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &CopyResult{}, err
	}
	read, write := io.Pipe()
	defer func() { read.Close() }()
	seeker, again := r.(io.Seeker)
	var start int64
	if again {
		start, err = seeker.Seek(0, io.SeekCurrent)
		again = err == nil
	}
	c := &copying{files: f, opts: opts, once: !again}
	id := transferID("write", f.g.target, f.User, f.Group, name)
	open := &guestv1.UploadOpen{Subject: f.subject(), TransferId: id[:], Destination: []byte(name), Names: [][]byte{[]byte(base)}, Options: opts.message()}
	open.Options.NoReplace = opts.NoReplace
	method := guestv1.FileService_Upload_FullMethodName
	feeding := make(chan struct{})
	close(feeding)
	return c.run(ctx, method, func(ctx context.Context, _ bool, _ *guestv1.Position) (*guestv1.Finished, error) {
		// One reader at a time: the pipe of the try before is closed.
		read.Close()
		<-feeding
		if again {
			if _, err := seeker.Seek(start, io.SeekStart); err != nil {
				return nil, fmt.Errorf("write %s: begin again: %w", name, err)
			}
		}
		read, write = io.Pipe()
		feeding = make(chan struct{})
		go func(to *io.PipeWriter, done chan struct{}) {
			defer close(done)
			_, err := io.CopyBuffer(to, struct{ io.Reader }{r}, make([]byte, archive.PieceBytes))
			to.CloseWithError(err)
		}(write, feeding)
		defer context.AfterFunc(ctx, func() { read.CloseWithError(context.Cause(ctx)) })()
		st, err := f.g.newCopyStream(ctx, method)
		if err != nil {
			return nil, err
		}
		open.Attempt = c.tries()
		_ = st.SendMsg(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: open}})
		return archive.Send(pacedSend{st, c.pace()}, &archive.SendConfig{Sources: []archive.Source{{Path: name, Reader: read, Mode: mode}}, Options: open.Options, Memory: &c.memory, OnDone: c.done})
	})
}

// CreateTemp makes a new file with permissions 0600 and opens it to read and write. The
// name, which Name says, is in dir, or in the guest's directory for temporary files if
// that is empty, and made of pattern as os.CreateTemp does it. The caller closes and
// removes it.
func (f *Files) CreateTemp(ctx context.Context, dir, pattern string) (*RemoteFile, error) {
	name, err := f.temporary(ctx, dir, pattern, false)
	if err != nil {
		return nil, err
	}
	file, err := f.OpenFile(ctx, name, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, f.Remove(ctx, name))
	}
	return file, nil
}
