//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// notifyResize returns a channel that is told when the size of the terminal
// changes, until done is called. Without a terminal it is never told.
func notifyResize(t *terminal) (resized <-chan os.Signal, done func()) {
	if t == nil {
		return nil, func() {}
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	return c, func() { signal.Stop(c) }
}

// stopSelf stops this process as ^Z does, and returns when it is continued. One that no
// shell waits for is not stopped.
func stopSelf() {
	const notStopped = time.Second
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	if syscall.Kill(os.Getpid(), syscall.SIGTSTP) != nil {
		return
	}
	select {
	case <-continued:
	case <-time.After(notStopped):
	}
}
