// Package reload keeps what was parsed from a file that people edit while a
// program runs: it is read again when it has changed, and what was read last
// stays in force while the file is broken. What package trusted would not read is
// as broken as what does not parse.
package reload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/trusted"
)

// Interval is how often, at most, a file is looked at if Config says nothing else.
const Interval = 500 * time.Millisecond

// maxFile bounds the size of a file, in bytes.
const maxFile = 1 << 20

// Config configures a File with a T in it.
type Config[T any] struct {
	// Path is the file, which need not exist, now or ever.
	Path  string
	Parse func([]byte) (T, error)
	// Report, if not nil, is called whenever the file comes, changes or goes later:
	// with nil, with fs.ErrNotExist when it has gone, or with the error if it is
	// broken. For the file as New finds it, it is called only if that is broken.
	Report func(error)
	// Keep has what the file said before stay in force when it is gone, which is an
	// error then. Otherwise a file that is gone is as one that never was there.
	Keep bool
	// Secret refuses a file that others may read.
	Secret bool
	// Interval is how often, at most, Get looks at the file. Default: Interval. A
	// file is taken for gone when it is still absent half of that later, since some
	// editors take it away for a moment.
	Interval time.Duration
}

// File is a file with a T in it. Its methods may be called concurrently.
type File[T any] struct {
	cfg     Config[T]
	checked atomic.Int64 // Unix nanoseconds of the last look
	version atomic.Uint64
	now     atomic.Pointer[state[T]]
	mu      sync.Mutex // held while looking
	seen    identity
	missed  time.Time // when it was first found absent; zero while it is there
	open    bool      // New has looked
}

// state is what one look has found.
type state[T any] struct {
	value T
	have  bool  // a file is in force
	err   error // why the file as it is now does not count
}

// identity tells one version of a file from the next.
type identity struct {
	exists   bool
	size     int64
	modified time.Time
	mode     fs.FileMode
	info     fs.FileInfo
}

func (i identity) same(j identity) bool {
	return i.exists == j.exists && i.size == j.size && i.mode == j.mode && i.modified.Equal(j.modified) && (!i.exists || os.SameFile(i.info, j.info))
}

// New looks at the file.
func New[T any](cfg Config[T]) *File[T] {
	if cfg.Interval == 0 {
		cfg.Interval = Interval
	}
	f := &File[T]{cfg: cfg}
	f.now.Store(&state[T]{})
	f.Look()
	f.open = true
	f.checked.Store(time.Now().UnixNano())
	return f
}

// Path returns the path.
func (f *File[T]) Path() string { return f.cfg.Path }

// Version grows by one with every change of what Get returns.
func (f *File[T]) Version() uint64 { return f.version.Load() }

// Get returns what the file had in it when it was last whole. have is false if
// nothing is in force. With err, the file as it is now is broken, or gone (with
// Config.Keep); without a value it was broken from the start, and the caller must
// not take that for a file that is absent.
func (f *File[T]) Get() (value T, have bool, err error) {
	last := f.checked.Load()
	if now := time.Now().UnixNano(); (now-last >= int64(f.cfg.Interval) || now < last) && f.checked.CompareAndSwap(last, now) {
		f.Look()
	}
	s := f.now.Load()
	return s.value, s.have, s.err
}

// Look reads the file if it has changed, without regard to the interval.
func (f *File[T]) Look() { f.look(false) }

// LookHard is Look, and takes a file that is absent for gone at once.
func (f *File[T]) LookHard() { f.look(true) }

func (f *File[T]) look(hard bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fi, err := os.Stat(f.cfg.Path)
	id := identity{exists: err == nil}
	if err == nil {
		id.size, id.modified, id.mode, id.info = fi.Size(), fi.ModTime(), fi.Mode(), fi
	}
	if !id.exists && f.open && f.now.Load().have {
		if f.missed.IsZero() {
			f.missed = time.Now()
		}
		if gone := time.Since(f.missed); !hard && gone >= 0 && gone < f.cfg.Interval/2 {
			return
		}
	} else {
		f.missed = time.Time{}
	}
	if id.same(f.seen) && f.open {
		return
	}
	f.seen = id
	f.take(f.read())
}

// take puts what was read in force.
func (f *File[T]) take(value T, err error) {
	old := f.now.Load()
	next := &state[T]{value: value, have: true}
	gone := errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil:
	case gone && !old.have && old.err == nil:
		return // it never was there
	case gone && !f.cfg.Keep:
		next = &state[T]{}
	default:
		next = &state[T]{value: old.value, have: old.have, err: err}
	}
	f.now.Store(next)
	f.version.Add(1)
	if f.cfg.Report != nil && (err != nil || f.open) {
		f.cfg.Report(err)
	}
}

func (f *File[T]) read() (T, error) {
	var none T
	read := trusted.Read
	if f.cfg.Secret {
		read = trusted.ReadSecret
	}
	data, err := read(f.cfg.Path, maxFile)
	if err != nil {
		return none, err
	}
	value, err := f.cfg.Parse(data)
	if err != nil {
		return none, fmt.Errorf("%s: %w", f.cfg.Path, err)
	}
	return value, nil
}
