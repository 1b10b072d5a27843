//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vsockrpc/vsockrpc/guest"
)

// copied is a file that is copied again and again, each time with other
// contents.
type copied struct {
	from, to string
	// may are the hashes that the destination may have: one after a copy that
	// was done, more after one that failed.
	may map[[32]byte]bool
}

// noFile is the hash of a destination that is not there.
var noFile [32]byte

func hashFile(name string) ([32]byte, error) {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return noFile, nil
	}
	return sha256.Sum256(data), err
}

// begin gives the source new contents.
func (f *copied) begin(op *operation) ([32]byte, error) {
	data := randomBytes(op.random, op.random.IntN(512<<10))
	if f.may == nil {
		f.may = map[[32]byte]bool{noFile: true}
	}
	sum := sha256.Sum256(data)
	f.may[sum] = true
	return sum, os.WriteFile(f.from, data, 0o600)
}

// end checks the destination after a copy of contents with the hash sum.
func (f *copied) end(sum [32]byte, err error) error {
	if err == nil {
		f.may = map[[32]byte]bool{sum: true}
	}
	if bad := f.check(); bad != nil {
		return bad
	}
	return err
}

// check checks that the destination is a whole file, old or new.
func (f *copied) check() error {
	if f.may == nil {
		return nil
	}
	got, err := hashFile(f.to)
	if err != nil {
		return broken{err}
	}
	if !f.may[got] {
		info, _ := os.Stat(f.to)
		size := int64(-1)
		if info != nil {
			size = info.Size()
		}
		return brokenf("%s, of %d bytes, is none of the %d files that it may be", f.to, size, len(f.may))
	}
	return nil
}

// options sometimes ask for what is slow.
func (op *operation) options() *guest.CopyOptions {
	o := &guest.CopyOptions{Sync: guest.SyncNone}
	if op.random.IntN(8) == 0 {
		o.Sync = guest.SyncBatch
	}
	return o
}

func (c *client) copyTo(ctx context.Context, op *operation) error {
	sum, err := c.up.begin(op)
	if err != nil {
		return broken{err}
	}
	_, err = c.guest.Files().CopyTo(ctx, []string{c.up.from}, c.up.to, op.options())
	return c.up.end(sum, err)
}

func (c *client) copyFrom(ctx context.Context, op *operation) error {
	sum, err := c.down.begin(op)
	if err != nil {
		return broken{err}
	}
	_, err = c.guest.Files().CopyFrom(ctx, []string{c.down.from}, c.down.to, op.options())
	return c.down.end(sum, err)
}

func (c *client) ctlCopyTo(ctx context.Context, op *operation) error {
	sum, err := c.up.begin(op)
	if err != nil {
		return broken{err}
	}
	code, err := c.ctl(ctx, nil, nil, "cp", "-q", "--fsync", "none", c.up.from, c.machine.target()+":"+c.up.to)
	return c.up.end(sum, copyCode(code, err))
}

func (c *client) ctlCopyFrom(ctx context.Context, op *operation) error {
	sum, err := c.down.begin(op)
	if err != nil {
		return broken{err}
	}
	code, err := c.ctl(ctx, nil, nil, "cp", "-q", "--fsync", "none", c.machine.target()+":"+c.down.from, c.down.to)
	return c.down.end(sum, copyCode(code, err))
}

func copyCode(code int, err error) error {
	if err == nil && code != 0 {
		return brokenf("host-ctl cp: exit code %d", code)
	}
	return err
}

// writeFile appends records to a file of the machine. What a Write has said to
// be written is there at the end, once.
func (c *client) writeFile(ctx context.Context, op *operation) error {
	f, err := c.guest.Files().OpenFile(ctx, c.records(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	for i := range 1 + op.random.IntN(8) {
		record := fmt.Sprintf("%s/%d", op.id, i)
		_, err := fmt.Fprintf(f, "%s\n", record)
		c.note(c.writes, record, err)
		if err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

func (c *client) records() string { return filepath.Join(c.shared, "records") }

// calls makes a few calls with one answer each.
func (c *client) calls(ctx context.Context, op *operation) error {
	for range 1 + op.random.IntN(10) {
		switch op.random.IntN(4) {
		case 0:
			info, err := c.guest.Info(ctx)
			if err != nil {
				return err
			}
			if !info.GetAccess().GetTrusted() {
				return brokenf("the agent does not trust its caller: %v", info.GetAccess())
			}
		case 1:
			info, err := c.guest.Files().Stat(ctx, c.shared)
			if err != nil {
				return err
			}
			if !info.IsDir() {
				return brokenf("%s is no directory but %v", c.shared, info.Mode())
			}
		case 2:
			if _, err := c.guest.Sessions(ctx); err != nil {
				return err
			}
		case 3:
			name := filepath.Join(c.shared, "missing")
			if _, err := c.guest.Files().ReadFile(ctx, name, 0); !errors.Is(err, fs.ErrNotExist) {
				if err == nil {
					return brokenf("%s is there", name)
				}
				return err
			}
		}
	}
	return nil
}
