package main

import (
	"bufio"
	"bytes"
	"context"
	"strings"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/mountinfo"
)

// Bounds of a guest's table of mounts.
const (
	maxMountinfo = 1 << 20
	maxMounts    = 1000
)

// mountPoints returns where a guest has file systems mounted, each once; / alone if it
// does not say.
func mountPoints(ctx context.Context, files *guest.Files) []string {
	data, err := files.ReadFile(ctx, "/proc/self/mountinfo", maxMountinfo)
	if err != nil {
		return []string{"/"}
	}
	var points []string
	seen := make(map[string]bool)
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() && len(points) < maxMounts {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || seen[fields[2]] {
			continue
		}
		seen[fields[2]] = true
		points = append(points, mountinfo.Unescape(fields[4]))
	}
	if len(points) == 0 {
		return []string{"/"}
	}
	return points
}
