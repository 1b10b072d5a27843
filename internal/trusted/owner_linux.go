package trusted

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// AsOwner calls f, which makes or changes the file at path. If this process is root's
// and the directory of the file, or the nearest above it that exists, is another
// user's, f has that user's rights to files: what it makes is the user's, and a link
// that the user puts in its way leads to nothing that the user could not reach. f must
// do its work with files on the goroutine that it is called on.
func AsOwner(path string, f func() error) error {
	uid, gid, err := ownerAbove(path)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 || uid == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if unix.Gettid() != os.Getpid() {
			done <- actAs(uid, gid, f)
			return
		}
		// The first thread stands for the process, and does not end: another, since
		// this one is held meanwhile.
		other := make(chan error, 1)
		go func() {
			runtime.LockOSThread()
			other <- actAs(uid, gid, f)
		}()
		done <- <-other
		runtime.UnlockOSThread()
	}()
	return <-done
}

// actAs calls f on the calling thread, which must be used for nothing after it.
func actAs(uid, gid int, f func() error) error {
	unix.SetfsgidRetGid(gid)
	unix.SetfsuidRetUid(uid) // takes the capabilities for files from the thread
	if got, _ := unix.SetfsuidRetUid(-1); got != uid {
		return errors.New("the kernel does not let this process act as the owner of the directory")
	}
	return f()
}

// ownerAbove returns who owns the nearest directory above path.
func ownerAbove(path string) (uid, gid int, err error) {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		st := fi.Sys().(*syscall.Stat_t)
		return int(st.Uid), int(st.Gid), nil
	}
}
