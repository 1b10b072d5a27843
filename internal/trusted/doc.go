// Package trusted opens the files that say whom a program trusts: keys, policies,
// state, credentials. Whoever can write such a file, or put another in its place,
// has the rights that it gives.
package trusted

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ErrUntrusted is the error of a file that somebody else than root and this
// process's user can write or replace. The text names the path that is wrong, which
// may be a directory above the file, and the command that mends it.
var ErrUntrusted = errors.New("not trusted")

// refuse returns an error that is ErrUntrusted.
func refuse(format string, args ...any) error {
	return &untrusted{fmt.Sprintf(format, args...)}
}

type untrusted struct{ text string }

func (e *untrusted) Error() string { return e.text }
func (e *untrusted) Unwrap() error { return ErrUntrusted }

// Read returns the contents of a regular file of at most max bytes. On Linux the
// error is ErrUntrusted unless root or this process's user owns the file and every
// directory above it, and nobody else may write any of them. A directory with the
// sticky bit, such as /tmp, may be among those above, but must not hold the file
// itself. Links are followed where they lie in a directory that nobody else may
// write.
//
// A file that does not exist is fs.ErrNotExist, which is as reliable as the rest:
// nobody else can have removed it. Read never waits, as for the writer of a FIFO.
func Read(path string, max int64) ([]byte, error) {
	f, err := open(path, 0o022)
	if err != nil {
		return nil, err
	}
	return read(f, path, max)
}

// ReadSecret is Read for a file that nobody else may read either, such as a private
// key.
func ReadSecret(path string, max int64) ([]byte, error) {
	f, err := open(path, 0o077)
	if err != nil {
		return nil, err
	}
	return read(f, path, max)
}

// ReadNamed returns the contents of a file that the user of a program has named or
// keeps at home: regular, of at most max bytes, and with none of the permissions in
// refused (such as 0o022, for others to write). Where it lies is the user's affair.
// It never waits.
func ReadNamed(path string, max int64, refused os.FileMode) ([]byte, error) {
	fi, err := os.Stat(path)
	if err == nil {
		// Before it is opened: to open a device can do something.
		err = checkFile(path, fi, refused)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	if fi, err = f.Stat(); err == nil {
		err = checkFile(path, fi, refused)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return read(f, path, max)
}

// checkFile refuses what is no regular file, or has permissions that are refused.
func checkFile(path string, fi os.FileInfo, refused os.FileMode) error {
	perm := fi.Mode().Perm()
	switch {
	case !fi.Mode().IsRegular():
		return refuse("%s is no regular file", path)
	case !hasModes || perm&refused == 0:
		return nil
	case perm&0o022 != 0:
		return refuse("%s may be written by others (mode %#o): chmod go-w %[1]s", path, perm)
	}
	return refuse("%s may be read by others (mode %#o): chmod 600 %[1]s, and make a new key if others are about", path, perm)
}

// read reads f, and closes it.
func read(f *os.File, path string, max int64) ([]byte, error) {
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s has more than %d bytes", path, max)
	}
	return data, nil
}

// Replace puts a file with mode 0600 in the place of path in one step, and makes its
// directory if it is missing. When it returns nil the file is on the disk. The error
// is ErrUntrusted where Read would not trust the directory.
func Replace(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// Create makes a new file with mode 0600, and its directory if that is missing. The
// error is fs.ErrExist if there is one, and ErrUntrusted where Read would not trust
// the directory.
func Create(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return err
	}
	return syncDir(dir)
}

// makeDir makes a directory if it is missing, and checks that it is trusted.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return checkDir(dir)
}
