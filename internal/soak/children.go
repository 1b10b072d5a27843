//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// children are the processes that this one has started. What an agent leaves
// behind when it is killed becomes a child of this process too: then it is an
// orphan, as it would be of a guest's init.
type children struct {
	mu    sync.Mutex
	known map[int]bool
}

func newChildren() (*children, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become a subreaper: %w", err)
	}
	return &children{known: make(map[int]bool)}, nil
}

// start starts cmd, which wait must be called for.
func (c *children) start(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	c.known[cmd.Process.Pid] = true
	return nil
}

func (c *children) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, cmd.Process.Pid)
	return err
}

// orphans returns the children that this process has not started.
func (c *children) orphans() ([]process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var orphans []process
	for _, p := range all {
		if p.parent == os.Getpid() && !c.known[p.pid] {
			orphans = append(orphans, p)
		}
	}
	return orphans, nil
}

// killOrphans does for the sessions of a killed agent what systemd does, which
// ends all of a service's control group. It returns when they are gone.
func (c *children) killOrphans() error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		orphans, err := c.orphans()
		if err != nil || len(orphans) == 0 {
			return err
		}
		for _, p := range orphans {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
			var status syscall.WaitStatus
			if _, err := syscall.Wait4(p.pid, &status, 0, nil); err != nil && !errors.Is(err, syscall.ECHILD) && !errors.Is(err, syscall.EINTR) {
				return fmt.Errorf("wait for %v: %w", p, err)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("orphans do not end: %v", orphans)
		}
	}
}

// process is what /proc says of a process.
type process struct {
	pid, parent int
	state       byte
	name        string
}

func (p process) String() string {
	return fmt.Sprintf("%d (%s, state %c, parent %d)", p.pid, p.name, p.state, p.parent)
}

// processes returns all processes; those that end meanwhile may be missing.
func processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// The name may have spaces and parentheses.
		open, end := strings.IndexByte(string(data), '('), strings.LastIndexByte(string(data), ')')
		if open < 0 || end < open {
			continue
		}
		fields := strings.Fields(string(data[end+1:]))
		if len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		all = append(all, process{pid, parent, fields[0][0], string(data[open+1 : end])})
	}
	return all, nil
}

// descendants returns the processes below pid.
func descendants(pid int) ([]process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	below := map[int]bool{pid: true}
	var found []process
	for again := true; again; {
		again = false
		for _, p := range all {
			if below[p.parent] && !below[p.pid] {
				below[p.pid], again = true, true
				found = append(found, p)
			}
		}
	}
	return found, nil
}

// descriptors returns what the descriptors of a process lead to.
func descriptors(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var open []string
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			open = append(open, to)
		}
	}
	return open, nil
}

// residentBytes returns how much memory a process has.
func residentBytes(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, fmt.Errorf("statm of %d: %q", pid, data)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
