//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/vmtest"
)

// The faults of these tests would hit the whole machine, so they are for a
// kernel of their own: VSOCKRPC_LAB says that this is one.

// labOptions are those of a short run in the lab, where there is one CPU.
func labOptions(t *testing.T) options {
	if os.Getenv(vmtest.EnvLab) != "uml" {
		t.Skip("runs in the User-mode Linux lab only")
	}
	programs := os.Getenv(vmtest.EnvPrograms)
	return options{time: 6 * time.Second, seed: 1, clients: 5, machines: 1, lines: 4, out: t.Output(),
		agent: filepath.Join(programs, "guest-agent"), hostCtl: filepath.Join(programs, "host-ctl")}
}

func labRun(t *testing.T, opts options) {
	t.Helper()
	broken, err := run(t.Context(), opts)
	if err != nil || broken > 0 {
		t.Errorf("%d promises broken, %v", broken, err)
	}
}

// TestLabClock has the clock jump a day ahead and back, again and again, while
// there are calls, sessions and copies over TLS. No call may fail of that:
// deadlines, pings and timeouts are of the monotonic clock, and keys have no
// dates.
func TestLabClock(t *testing.T) {
	opts := labOptions(t)
	opts.only, opts.tls, opts.strict = []kind{clockForward, clockBack}, true, true
	labRun(t, opts)
}

// TestLabMemory has programs take all memory that the cgroup of the agent and its
// sessions may have. They are killed, and the agent goes on.
func TestLabMemory(t *testing.T) {
	opts := labOptions(t)
	opts.only, opts.memory = []kind{memoryNeeded}, 96<<20
	labRun(t, opts)
}
