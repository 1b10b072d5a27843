package subject

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"
)

const (
	lookTime = 5 * time.Second // for a look that users of the guest can delay
	maxLooks = 64              // of those that were left behind
)

// looks counts those that were left behind.
var looks atomic.Int64

// ErrLooks says that too many looks were left behind.
var ErrLooks = errors.New("too many paths lead to file systems that do not answer")

// Look calls f, which looks at a path or what it names as the process's own user,
// and returns its error. If users of the guest can reach into the path f has 5 s, or
// until ctx ends, and is left behind with a *LeftError as by Do.
func Look(ctx context.Context, path string, f func() error) error {
	if err := Ground(path); err == nil || errors.Is(err, fs.ErrNotExist) {
		return f()
	}
	if looks.Load() >= maxLooks {
		return ErrLooks
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	var state atomic.Int32 // 1: over, 2: left behind
	err := do(ctx, f, func() {
		if !state.CompareAndSwap(0, 1) {
			looks.Add(-1)
		}
	})
	if _, ok := errors.AsType[*LeftError](err); ok && state.CompareAndSwap(0, 2) {
		looks.Add(1)
	}
	return err
}

// Open is Look for what is opened. What comes too late nobody can reach, and it is
// closed as garbage, so it has to be of a kind that is.
func Open[T any](ctx context.Context, path string, open func() (T, error)) (T, error) {
	found := make(chan T, 1)
	err := Look(ctx, path, func() error {
		v, err := open()
		found <- v
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return <-found, nil
}
