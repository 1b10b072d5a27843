//go:build linux

package process

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const fullEnv = "PROCESS_TEST_FULL"

// TestStartWithTheLastDescriptors starts a program when all numbers of descriptors
// but a few are in use: either it starts, or it is said why not.
func TestStartWithTheLastDescriptors(t *testing.T) {
	if os.Getenv(fullEnv) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStartWithTheLastDescriptors$", "-test.v")
		cmd.Env = append(os.Environ(), fullEnv+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	// The process of the test alone has this limit.
	const limit = 128
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		t.Fatal(err)
	}
	var files []int
	for {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		files = append(files, fd)
	}
	last := uintptr(files[len(files)-1])
	refused := false
	for free := range 16 {
		_, _, err := syscall.StartProcess("/bin/true", []string{"true"}, &syscall.ProcAttr{Files: []uintptr{last, last, last}})
		if err != nil {
			refused = true
			if got := reasonOf(explain(&command{}, "/bin/true", "/", err)); got != reasonNoFiles {
				t.Errorf("%d descriptors are free: %v, called %s", free, err, got)
			}
		}
		unix.Close(files[free])
	}
	if !refused {
		t.Error("nothing was refused")
	}
}
