package guest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// followEvery is how often a file is looked at that is followed: a line of a log is to
// be seen as it comes, and the question is one small call.
const followEvery = 250 * time.Millisecond

// Follow writes a file of the guest to w from offset on, and then what is appended to it,
// until ctx is done, with whose error it returns, or a Write fails. It goes on with a
// file that gets the name, as when a log is rotated, after what the one before had, and
// from the beginning of one that shrinks. A file that is away is waited for; one that is
// missing at first is an error. It goes on after a lost connection.
func (f *Files) Follow(ctx context.Context, w io.Writer, name string, offset uint64) error {
	var last *guestv1.FileInfo
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		info, err := f.Stat(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			offset = 0 // of what comes
		case err == nil:
			now := info.Sys().(*guestv1.FileInfo)
			if last != nil && (now.Inode != last.Inode || now.Device != last.Device || now.Size < offset) {
				offset = 0
			}
			last = now
			if now.Size > offset {
				counted := &countingWriter{w: w}
				err = f.CopyRange(ctx, counted, name, offset, now.Size-offset)
				offset += counted.n
				if counted.err != nil {
					return counted.err
				}
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && (last == nil || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// countingWriter counts what is written, and remembers why a Write failed.
type countingWriter struct {
	w   io.Writer
	n   uint64
	err error
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += uint64(n)
	c.err = err
	return n, err
}
