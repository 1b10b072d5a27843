// Package reload keeps what was parsed from a file that people edit while a
// program runs: it is read again when it has changed, and what was read last
// stays in force while the file is broken.
package reload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Interval is how often, at most, a file is looked at.
const Interval = time.Second

// maxFile bounds the size of a file, in bytes.
const maxFile = 1 << 20

// File is a file with a T in it. Its methods may be called concurrently.
type File[T any] struct {
	path   string
	parse  func([]byte) (T, error)
	report func(error)

	checked atomic.Int64 // Unix nanoseconds of the last look
	now     atomic.Pointer[state[T]]
	mu      sync.Mutex // held while looking
	seen    identity
	open    bool // New has looked
}

// state is what one look has found.
type state[T any] struct {
	value T
	have  bool  // a file was read at some time
	err   error // why the file as it is now does not count
}

// identity tells one version of a file from the next.
type identity struct {
	exists   bool
	size     int64
	modified time.Time
	info     fs.FileInfo
}

func (i identity) same(j identity) bool {
	return i.exists == j.exists && i.size == j.size && i.modified.Equal(j.modified) && (!i.exists || os.SameFile(i.info, j.info))
}

// New looks at the file. It need not exist, now or ever. Whenever the file
// comes or changes later, report is called with nil, or with the error if it is
// broken; for the file as it is now, only if that is broken.
func New[T any](path string, parse func([]byte) (T, error), report func(error)) *File[T] {
	f := &File[T]{path: path, parse: parse, report: report}
	f.now.Store(&state[T]{})
	f.look()
	f.open = true
	f.checked.Store(time.Now().UnixNano())
	return f
}

// Path returns the path.
func (f *File[T]) Path() string { return f.path }

// Get returns what the file had in it when it was last whole. have is false if it
// never was there. With err, the file as it is now is broken, or gone; without a
// value it was broken from the start, and the caller must not take that for a
// file that is absent.
func (f *File[T]) Get() (value T, have bool, err error) {
	last := f.checked.Load()
	if now := time.Now().UnixNano(); (now-last >= int64(Interval) || now < last) && f.checked.CompareAndSwap(last, now) {
		f.look()
	}
	s := f.now.Load()
	return s.value, s.have, s.err
}

// Refresh looks at the file now, if it has changed or not.
func (f *File[T]) Refresh() {
	f.mu.Lock()
	f.seen = identity{size: -1}
	f.mu.Unlock()
	f.look()
}

// look reads the file if it has changed.
func (f *File[T]) look() {
	f.mu.Lock()
	defer f.mu.Unlock()
	fi, err := os.Stat(f.path)
	id := identity{exists: err == nil}
	if err == nil {
		id.size, id.modified, id.info = fi.Size(), fi.ModTime(), fi
	}
	old := f.now.Load()
	if errors.Is(err, fs.ErrNotExist) && !old.have && old.err == nil {
		f.seen = id
		return
	}
	if id.same(f.seen) {
		return
	}
	f.seen = id
	next := &state[T]{value: old.value, have: old.have}
	value, err := f.read()
	if err == nil {
		next.value, next.have = value, true
	} else {
		next.err = err
	}
	f.now.Store(next)
	if f.report != nil && (err != nil || f.open) {
		f.report(err)
	}
}

func (f *File[T]) read() (T, error) {
	var none T
	file, err := os.Open(f.path)
	if err != nil {
		return none, err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return none, err
	}
	if err := checkOwner(f.path, fi); err != nil {
		return none, err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return none, err
	}
	if len(data) > maxFile {
		return none, fmt.Errorf("%s has more than %d bytes", f.path, maxFile)
	}
	value, err := f.parse(data)
	if err != nil {
		return none, fmt.Errorf("%s: %w", f.path, err)
	}
	return value, nil
}
