package policy

import (
	"log/slog"

	"github.com/vsockrpc/vsockrpc/internal/reload"
)

// File is the file of a policy, which is read again when it changes. Its methods
// may be called concurrently. A nil File has no policy.
type File struct {
	file *reload.File[*Policy]
}

// closed is in force while a file is broken that never was whole.
var closed = &Policy{}

// Open reads the policy of a file. The file need not exist: there is no policy
// then, until it does. A file that breaks, or goes, leaves the policy as it was;
// one that is broken from the start refuses everything.
func Open(path string, log *slog.Logger) *File {
	return &File{file: reload.New(reload.Config[*Policy]{
		Path:  path,
		Parse: Parse,
		Keep:  true,
		Report: func(err error) {
			if err != nil {
				log.Error("policy: the file is broken; what it said before is in force", "err", err)
			} else {
				log.Info("policy: the file has changed", "path", path)
			}
		},
	})}
}

// Look looks at the file now: Get does so now and then only.
func (f *File) Look() {
	if f != nil {
		f.file.Look()
	}
}

// Version changes with every change of what Get returns.
func (f *File) Version() uint64 {
	if f == nil {
		return 0
	}
	_, _, _ = f.file.Get()
	return f.file.Version()
}

// Get returns the policy in force, nil if there is none, and why the file as it
// is now is not.
func (f *File) Get() (*Policy, error) {
	if f == nil {
		return nil, nil
	}
	p, have, err := f.file.Get()
	switch {
	case have:
		return p, err
	case err != nil:
		return closed, err
	}
	return nil, nil
}

// Path returns the path of the file, empty if f is nil.
func (f *File) Path() string {
	if f == nil {
		return ""
	}
	return f.file.Path()
}
