//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
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
