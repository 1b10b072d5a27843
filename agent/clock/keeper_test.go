//go:build linux

package clock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFindKeeper: a keeper is a process with the name and the right of one, here.
func TestFindKeeper(t *testing.T) {
	const all, none, ours, others = "000001ffffffffff", "0000000000000000", "user:[1]", "user:[2]"
	for name, tt := range map[string]struct{ comm, caps, ns, want string }{
		"chronyd":               {"chronyd", "0000000002000400", ours, "chronyd"},
		"a name that is cut":    {"systemd-timesyn", all, ours, "systemd-timesyncd"},
		"ntpd":                  {"ntpd", all, ours, "ntpd"},
		"another program":       {"bash", all, ours, ""},
		"a user's":              {"chronyd", none, ours, ""},
		"with other rights":     {"chronyd", "000001fffdffffff", ours, ""},
		"a container's":         {"chronyd", all, others, ""},
		"with a damaged status": {"chronyd", "x", ours, ""},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			process := func(pid, comm, caps, ns string) {
				t.Helper()
				dir := filepath.Join(proc, pid)
				if err := errors.Join(os.MkdirAll(filepath.Join(dir, "ns"), 0o700), os.Symlink(ns, filepath.Join(dir, "ns/user")),
					os.WriteFile(filepath.Join(dir, "comm"), []byte(comm+"\n"), 0o600),
					os.WriteFile(filepath.Join(dir, "status"), fmt.Appendf(nil, "Name:\t%s\nCapPrm:\t%s\nCapEff:\t%s\n", comm, all, caps), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			process("self", "guest-agent", all, ours)
			process("1", "init", all, ours)
			process("77", tt.comm, tt.caps, tt.ns)
			if err := os.Mkdir(filepath.Join(proc, "78"), 0o700); err != nil { // one that has ended
				t.Fatal(err)
			}
			if got, err := findKeeper(t.Context(), proc); got != tt.want || err != nil {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestFindKeeperStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := findKeeper(ctx, "/proc"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestRTCTime(t *testing.T) {
	got := rtcTime(time.Date(2026, time.November, 28, 13, 5, 9, 0, time.UTC))
	if got.Year != 126 || got.Mon != 10 || got.Mday != 28 || got.Hour != 13 || got.Min != 5 || got.Sec != 9 || got.Wday != 6 || got.Yday != 331 {
		t.Errorf("%+v", got)
	}
}
