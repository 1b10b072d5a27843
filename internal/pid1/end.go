//go:build linux

package pid1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// EndProcesses sends SIGTERM to every process but this one, waits up to grace
// for them to end, and then sends SIGKILL. In a pid namespace those are the
// processes in it. Somebody has to reap meanwhile: a zombie has not ended.
func EndProcesses(grace time.Duration, log *slog.Logger) {
	// A stopped process takes SIGTERM only when it goes on.
	signalAll(unix.SIGTERM)
	signalAll(unix.SIGCONT)
	if waitNone(grace) {
		return
	}
	log.Warn("processes did not end", "pids", others(), "after", grace)
	signalAll(unix.SIGKILL)
	if !waitNone(killWait) {
		log.Warn("processes outlived SIGKILL", "pids", others())
	}
}

const (
	killWait  = 2 * time.Second
	pollEvery = 20 * time.Millisecond
)

func signalAll(sig unix.Signal) {
	// ESRCH: there is nobody else.
	_ = unix.Kill(-1, sig)
}

// waitNone waits until there is no other process, and reports whether it was
// so within the time given.
func waitNone(limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(pollEvery) {
		if len(others()) == 0 {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// others returns the pids of all processes but this one and the kernel's.
func others() []string {
	var pids []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid := filepath.Base(filepath.Dir(path))
		stat, err := os.ReadFile(path)
		if err != nil || pid == fmt.Sprint(os.Getpid()) || isKernelThread(stat) {
			continue
		}
		pids = append(pids, pid)
	}
	return pids
}

// isKernelThread looks for PF_KTHREAD in the flags, field 9 of proc_pid_stat(5).
func isKernelThread(stat []byte) bool {
	const pfKthread = 0x00200000
	// PID (NAME) STATE PPID PGRP SESSION TTY TPGID FLAGS ..., where NAME may
	// hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	var flags uint64
	if _, err := fmt.Sscan(string(fields[6]), &flags); err != nil {
		return false
	}
	return flags&pfKthread != 0
}

// How is a way for a machine to end.
type How int

const (
	PowerOff How = iota
	Reboot
)

// String returns "power off" or "reboot".
func (h How) String() string {
	if h == Reboot {
		return "reboot"
	}
	return "power off"
}

// EndMachine writes everything to the disks, unmounts or remounts them
// read-only, and ends the machine. It returns only if it may not, such as in a
// container.
func EndMachine(how How, log *slog.Logger) error {
	unix.Sync()
	if err := releaseDisks(); err != nil {
		log.Warn("release file systems", "err", err)
	}
	return reboot(how)
}

// reboot ends the machine; in a pid namespace, which is no machine, all of it.
func reboot(how How) error {
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	if how == Reboot {
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	}
	if err := unix.Reboot(cmd); err != nil {
		return fmt.Errorf("%s: %w", how, err)
	}
	return errors.New(how.String() + ": the kernel came back")
}

// releaseDisks unmounts the file systems that are on disks, the last one
// mounted first, and makes those read-only that are in use, as the root is.
func releaseDisks() error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var errs []error
	for _, target := range slices.Backward(disks(b)) {
		if target != "/" && unix.Unmount(target, 0) == nil {
			continue
		}
		if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			errs = append(errs, fmt.Errorf("remount %s read-only: %w", target, err))
		}
	}
	return errors.Join(errs...)
}

// disks returns the mount points in a file such as /proc/self/mounts whose
// source is a device.
func disks(mounts []byte) []string {
	var targets []string
	for s := bufio.NewScanner(bytes.NewReader(mounts)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) > 1 && strings.HasPrefix(fields[0], "/dev/") {
			targets = append(targets, unescape(fields[1]))
		}
	}
	return targets
}

// unescape undoes the octal escapes of proc_pid_mounts(5).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
