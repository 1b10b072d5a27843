//go:build linux

package clock

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// keepers are the programs that keep a clock, by the names that the kernel has of them
// (15 bytes at most), and by what they are called.
var keepers = map[string]string{
	"chronyd":         "chronyd",
	"systemd-timesyn": "systemd-timesyncd",
	"ntpd":            "ntpd",
	"phc2sys":         "phc2sys",
}

// maxStatus is how much of a status file is read; its capabilities come early.
const maxStatus = 8 << 10

// findKeeper returns which program below proc keeps the clock, empty for none. A process
// counts if it may set the clock: what a user calls a program says nothing, and neither
// does one in a container that has its own users.
func findKeeper(ctx context.Context, proc string) (string, error) {
	dir, err := os.Open(proc)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	own, err := os.Readlink(filepath.Join(proc, "self/ns/user"))
	if err != nil {
		return "", err
	}
	for {
		names, err := dir.Readdirnames(512)
		if err == io.EOF {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		for _, pid := range names {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			if _, err := strconv.ParseUint(pid, 10, 32); err != nil {
				continue
			}
			comm, err := os.ReadFile(filepath.Join(proc, pid, "comm"))
			if err != nil {
				continue // it has ended
			}
			name, ok := keepers[strings.TrimSuffix(string(comm), "\n")]
			if ok && maySetTime(filepath.Join(proc, pid), own) {
				return name, nil
			}
		}
	}
}

// maySetTime reports whether the process of a directory of /proc has CAP_SYS_TIME in a
// user namespace.
func maySetTime(dir, namespace string) bool {
	if ns, err := os.Readlink(filepath.Join(dir, "ns/user")); err != nil || ns != namespace {
		return false
	}
	f, err := os.Open(filepath.Join(dir, "status"))
	if err != nil {
		return false
	}
	defer f.Close()
	status, err := io.ReadAll(io.LimitReader(f, maxStatus))
	if err != nil {
		return false
	}
	lines := slices.Collect(strings.Lines(string(status)))
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "CapEff:") })
	if i < 0 {
		return false
	}
	caps, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(lines[i], "CapEff:")), 16, 64)
	return err == nil && caps&(1<<unix.CAP_SYS_TIME) != 0
}
