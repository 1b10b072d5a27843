package archive

import (
	"os"
	"strings"

	"google.golang.org/grpc/codes"
)

// Denied reports whether a file is to be left out of a transfer, by its absolute
// path without links; nil leaves out nothing. It is asked about each file before
// that is looked at, and about what is opened through links.
type Denied func(real string) bool

// file returns the failure of a file in root, by its path beneath that, if it is
// denied, or cannot be said to be allowed.
func (d Denied) file(root *os.Root, below string) error {
	if d == nil {
		return nil
	}
	dir, name := "", below
	if i := strings.LastIndexByte(below, '/'); i >= 0 {
		dir, name = below[:i], below[i+1:]
	}
	if dir != "" {
		sub, err := root.OpenRoot(dir + asDir)
		if err != nil {
			return failed("open", below, err)
		}
		defer sub.Close()
		root = sub
	}
	real, err := d.directory(root, below)
	if err == nil && d(joinPath(real, name)) {
		err = Denial(below)
	}
	return err
}

// directory returns the path of a directory that is open, and a failure if that is
// denied.
func (d Denied) directory(root *os.Root, path string) (real string, err error) {
	if d == nil {
		return "", nil
	}
	f, err := root.Open(".")
	if err != nil {
		return "", failed("open", path, err)
	}
	defer f.Close()
	return d.open(f, path)
}

// open is directory of what is open as a file.
func (d Denied) open(f *os.File, path string) (real string, err error) {
	if d == nil {
		return "", nil
	}
	if real, err = realPath(f); err != nil {
		return "", failed("open", path, err)
	}
	if d(real) {
		return "", Denial(path)
	}
	return real, nil
}

// opened is open for a file that was just opened, which it closes if it is denied.
func (d Denied) opened(f *os.File, err error) (*os.File, error) {
	if err != nil || d == nil {
		return f, err
	}
	if _, err := d.open(f, f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Denial is the failure of a file that is denied.
func Denial(path string) error {
	f := newFailure("open", path, codes.PermissionDenied, ReasonDenied, "the guest's policy denies it")
	f.Remedy = "leave it out, or have the policy changed"
	return f
}
