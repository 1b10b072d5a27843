package subject

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
)

// Own reports whether an account has the ids of this process. The groups of such
// a one are not looked at: they are what the process has.
func Own(a account.Account) bool {
	return int(a.UID) == os.Geteuid() && int(a.GID) == os.Getegid()
}

// BecomeError says that the kernel did not let the agent act as a user.
type BecomeError struct {
	Op  string // the system call
	Err error
}

// Error says so.
func (e *BecomeError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the kernel's error.
func (e *BecomeError) Unwrap() error { return e.Err }

// Do calls f with the rights of an account to files, and returns its error. f runs
// on a goroutine of its own, whose thread has those rights unless they are the
// process's own. It must do its work with files on that goroutine, and must not
// connect sockets.
//
// If ctx ends and f does not end within a second of that, Do returns a *LeftError,
// and f goes on until what it waits for lets it: a system call on a file system that
// does not answer cannot be ended. So f must not write what its caller reads after
// such an error, and must give back itself what it holds.
//
// If the rights cannot be had f is not called, and the error is a *BecomeError. A
// panic of f is one of Do.
func Do(ctx context.Context, a account.Account, f func() error) error {
	if Own(a) {
		return do(ctx, f, nil)
	}
	done := make(chan result, 1)
	go OnThread(func() {
		if err := become(a); err != nil {
			done <- result{err: err}
			return
		}
		done <- run(f)
	})
	return await(ctx, done)
}

// do is Do as the process's own user. over is called when f has ended.
func do(ctx context.Context, f func() error, over func()) error {
	done := make(chan result, 1)
	go func() {
		r := run(f)
		if over != nil {
			over()
		}
		done <- r
	}()
	return await(ctx, done)
}

// await waits for a result, and a while longer than ctx.
func await(ctx context.Context, done <-chan result) error {
	select {
	case r := <-done:
		return r.get()
	case <-ctx.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.get()
	case <-timer.C:
		return &LeftError{ctx.Err()}
	}
}

// grace is what a function gets that looks at its context between system calls.
const grace = time.Second

// LeftError says that what was called is left behind, since its context has ended
// and it has not.
type LeftError struct{ Err error } // of the context

// Error says so.
func (e *LeftError) Error() string { return "no answer before the call was ended: " + e.Err.Error() }

// Unwrap returns the context's error.
func (e *LeftError) Unwrap() error { return e.Err }

// OnThread calls f on a thread that is used for nothing after it. That cannot be
// the first thread of the process, which stands for all of it, and does not end
// before it.
func OnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		f()
		return // locked, so that the thread ends with the goroutine
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // another, since this one is held
		f()
	}()
	<-done
	runtime.UnlockOSThread()
}

// run calls f and returns what came of it.
func run(f func() error) (r result) {
	ended := false
	defer func() {
		if !ended {
			r.panic = fmt.Sprintf("%v\n%s", recover(), debug.Stack())
		}
	}()
	r.err = f()
	ended = true
	return r
}

type result struct {
	err   error
	panic string
}

func (r result) get() error {
	if r.panic != "" {
		panic(r.panic)
	}
	return r.err
}
