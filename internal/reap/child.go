//go:build linux

package reap

import (
	"os/exec"
	"sync"
)

// children is the register of processes that this process started and waits
// for itself. Starts hold the lock for reading, so that they run side by side;
// the reaper holds it for writing, so that no child is between its fork and
// its entry.
var children struct {
	starting sync.RWMutex
	mu       sync.Mutex
	pids     map[int]int // how many times a pid is registered
}

// Child calls start, which starts a process and returns its pid, and registers
// the pid. Whoever waits for the process calls the returned function right
// after. If start fails, its error is returned and nothing is registered; start
// must then have waited for what it started, as os.StartProcess does.
//
// A pid is registered more than once for an instant, if the kernel gives it to
// a new child between the wait and the call of the returned function.
func Child(start func() (pid int, err error)) (waited func(), err error) {
	children.starting.RLock()
	defer children.starting.RUnlock()
	pid, err := start()
	if err != nil {
		return nil, err
	}
	children.mu.Lock()
	if children.pids == nil {
		children.pids = make(map[int]int)
	}
	children.pids[pid]++
	children.mu.Unlock()
	return sync.OnceFunc(func() { forget(pid) }), nil
}

func forget(pid int) {
	children.mu.Lock()
	defer children.mu.Unlock()
	if children.pids[pid]--; children.pids[pid] <= 0 {
		delete(children.pids, pid)
	}
}

func registered(pid int) bool {
	children.mu.Lock()
	defer children.mu.Unlock()
	return children.pids[pid] > 0
}

// Run is cmd.Run for a process in which a reaper may run.
func Run(cmd *exec.Cmd) error {
	waited, err := Child(func() (int, error) {
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	})
	if err != nil {
		return err
	}
	defer waited()
	return cmd.Wait()
}
