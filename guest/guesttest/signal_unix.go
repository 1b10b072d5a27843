//go:build unix

package guesttest

import (
	"os"
	"syscall"
)

// signalOf returns the signal that has ended a process, 0 if none has.
func signalOf(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return int(ws.Signal())
	}
	return 0
}
