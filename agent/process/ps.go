//go:build linux

package process

import (
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// procStat is what this package needs of /proc/PID/stat.
type procStat struct {
	pid, parent, group, session int
	startTicks                  uint64
}

// readStat reads /proc/PID/stat; false if the process is gone.
func readStat(pid int) (procStat, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, false
	}
	// PID (NAME) STATE PPID PGRP SESSION ..., where NAME may hold anything.
	s := string(text)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	const starttime = 19 // the 22nd field, of which two are before these
	if len(f) <= starttime {
		return procStat{}, false
	}
	p := procStat{pid: pid}
	for i, n := range []*int{&p.parent, &p.group, &p.session} {
		if *n, err = strconv.Atoi(f[i+1]); err != nil {
			return procStat{}, false
		}
	}
	p.startTicks, err = strconv.ParseUint(f[starttime], 10, 64)
	return p, err == nil
}

// pids lists the processes of the guest.
func pids() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	var list []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			list = append(list, pid)
		}
	}
	return list, err
}

// sessionMembers lists the processes of a POSIX session.
func sessionMembers(session int) []procStat {
	list, err := pids()
	if err != nil {
		return nil // no /proc
	}
	var members []procStat
	for _, pid := range list {
		if p, ok := readStat(pid); ok && p.session == session {
			members = append(members, p)
		}
	}
	return members
}

// signal signals the process if it is still the one that was listed as a member
// of a session.
func (p procStat) signal(session int, sig syscall.Signal) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err == nil {
		defer unix.Close(fd)
	} else if err != unix.ENOSYS {
		return
	}
	now, ok := readStat(p.pid)
	if !ok || now.session != session || now.startTicks != p.startTicks {
		return
	}
	if err == nil {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	} else {
		_ = unix.Kill(p.pid, sig)
	}
}
