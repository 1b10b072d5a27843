//go:build linux

package main

import (
	"fmt"
	"os"
	"syscall"
)

// ownProgram is the file that this process runs.
const ownProgram = "/proc/self/exe"

// checkProgram refuses the file of a program that others than its owner may
// write: what they put there runs with the agent's rights when it starts again. A
// group that is root's, or the owner's alone (of the same number), is no other.
// foreign says that a root agent's file belongs to somebody else, who may.
func checkProgram(path string) (foreign string, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("the program itself: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink == 0 {
		return "", nil // nobody can find it
	}
	if name, err := os.Readlink(path); err == nil {
		path = name
	}
	perm := fi.Mode().Perm()
	if perm&0o002 != 0 || perm&0o020 != 0 && st.Gid != 0 && st.Gid != st.Uid {
		return "", fmt.Errorf("the program itself may be written by others (%s, mode %#o): chmod go-w it", path, perm)
	}
	if os.Geteuid() == 0 && st.Uid != 0 {
		foreign = fmt.Sprintf("%s belongs to uid %d, who can change what root runs: chown root it", path, st.Uid)
	}
	return foreign, nil
}
