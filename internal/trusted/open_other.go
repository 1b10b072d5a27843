//go:build !linux

package trusted

import (
	"os"
	"runtime"
)

const (
	hasModes = runtime.GOOS != "windows"
	nonblock = 0 // what is no regular file was refused before
)

// open opens a file without looking at the directories above it: the agent, which
// needs that, runs on Linux.
func open(name string, refused os.FileMode) (*os.File, error) {
	fi, err := os.Stat(name)
	if err == nil {
		err = checkFile(name, fi, refused)
	}
	if err != nil {
		return nil, err
	}
	return os.Open(name)
}

func checkDir(string) error { return nil }

func syncDir(string) error { return nil }
