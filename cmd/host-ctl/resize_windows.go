package main

import "os"

// notifyResize returns a channel that is never told: Windows has no signal for
// the size of a console.
func notifyResize(*terminal) (resized <-chan os.Signal, done func()) {
	return nil, func() {}
}

// stopSelf does nothing: there is no job control.
func stopSelf() {}
